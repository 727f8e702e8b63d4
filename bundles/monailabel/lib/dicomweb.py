"""A DICOMweb store as MONAI Label's datastore."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from pydicom.dataset import Dataset

from lib import guard
from lib.guard import Refusal
from lib.images import LABEL_SUFFIXES, is_empty_label
from lib.proxy import StoreProxy, impatient
from lib.records import checked_info, label_info
from lib.series import SeriesFolders

_NO_IMAGES = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC")
_LIST_SECONDS = 60.0
_UPSTREAM_FILTER = {"Modality": "CT"}  # MONAI Label's default, which would hide every other series
_KEPT = ("SeriesInstanceUID", "StudyInstanceUID", "Modality")
_ATTEMPTS = 2


class DicomWebStudies(SeriesFolders, DICOMWebDatastore):  # type: ignore[misc]
    """The series of a DICOMweb store, fetched into a cache when they are used.

    Args:
        client: of the store.
        search_filter: QIDO filter of the series; all series of images without one.
        cache_path: where series are kept; MONAI Label's own place without one.
        proxy: hands viewers' requests on to the store.
    """

    def __init__(
        self,
        client: DICOMwebClientX,
        search_filter: Mapping[str, Any],
        cache_path: str | None,
        proxy: StoreProxy,
    ) -> None:
        self.proxy = proxy
        self._listed: tuple[float, list[str]] = (0.0, [])
        super().__init__(client, dict(search_filter), cache_path, False, True)

    def known(self, image_id: str) -> bool:
        """Whether the store holds a series."""
        return image_id in self.list_images() or image_id in self.list_images(fresh=True)

    def list_images(self, fresh: bool = False) -> list[str]:
        """The series of images, asked for anew once a minute."""
        age = time.monotonic() - self._listed[0]
        if not self._listed[0] or age > (1.0 if fresh else _LIST_SECONDS):
            found = self._client.search_for_series(search_filters=self._search_filter)
            series = [Dataset.from_json(one) for one in found]
            images = [s for s in series if s.get("Modality") not in _NO_IMAGES]
            self._listed = (time.monotonic(), sorted(str(s.SeriesInstanceUID) for s in images))
        return list(self._listed[1])

    def require(self, image_id: object) -> None:
        """Refuses what is no series of the store.

        Raises:
            Refusal: 400 for what is no UID, 404 for an unknown one.
        """
        if not self.known(guard.uid(image_id)):
            raise Refusal(404, f"image: the store has no series {guard.shown(image_id)}.")

    def path(self, image_id: object) -> Path:
        """The folder of a series, fetched when it is not there yet.

        Raises:
            Refusal: 400 for what is no UID, 404 for an unknown one, 502 when fetching fails.
        """
        self.require(image_id)
        uid = guard.uid(image_id)
        folder = Path(self._datastore.image_path()).resolve() / uid
        if not folder.is_dir():
            self._fetch(self._header(uid), folder)
        if "patient" not in self.info(uid):
            self._enter(self._header(uid))
        return guard.inside(folder, self._datastore_path)

    def _header(self, uid: str) -> Dataset:
        """What the store says of a series."""
        found = self._client.search_for_series(search_filters={"SeriesInstanceUID": uid})
        for header in map(Dataset.from_json, found):
            if str(header.SeriesInstanceUID) == uid:
                return header
        raise Refusal(404, "image: the store no longer has this series.")

    def _fetch(self, header: Dataset, folder: Path) -> None:
        """Fetches a series as a whole; names in the cache are UIDs that were checked."""
        study = guard.uid(str(header.StudyInstanceUID))
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
            for one in self._client.retrieve_series(study, folder.name):
                name = f"{guard.uid(str(one.SOPInstanceUID))}.dcm"
                one.save_as(os.path.join(temporary, name), write_like_original=False)
            if not os.listdir(temporary):
                raise Refusal(502, "image: the store sent no instance of this series.")
            shutil.copytree(temporary, folder)

    def record(self, image_id: str, values: Mapping[str, Any]) -> None:
        """Records values of a series, which is fetched for it."""
        self.path(image_id)
        super().record(image_id, values)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is recorded of a series."""
        self.require(image_id)
        return self.info(image_id) | {"name": f"{image_id}.nii.gz"}

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """The path of a label in the cache."""
        label_id, label_tag = guard.uid(label_id), guard.tag(label_tag)
        return str(super().get_label_uri(label_id, label_tag, image_id and guard.uid(image_id)))

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Not offered: new series go to the store, not through this server."""
        raise Refusal(403, "image: send new series to the DICOMweb store.")

    def save_label(
        self,
        image_id: str,
        label_filename: str,
        label_tag: str,
        info: dict[str, Any],
        label_id: str = "",
    ) -> str:
        """Saves a label; a final one also goes to the store as a DICOM segmentation.

        A label that marks nothing is not stored: DICOM knows no segmentation without a segment.
        """
        self.require(image_id)
        checked, tag = label_info(info), guard.tag(label_tag)
        guard.suffix_of(label_filename, (*LABEL_SUFFIXES, ".bin"))
        if tag == "final" and is_empty_label(Path(label_filename)):
            return image_id
        try:
            return str(super().save_label(image_id, label_filename, tag, checked))
        except (ValueError, RuntimeError, OSError) as error:
            raise Refusal(
                400, "label: it cannot become a segmentation of this series; is its grid the same?"
            ) from error

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Records what a client says of a series that was used before."""
        self.require(image_id)
        self.record(image_id, checked_info(info))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Records what a client says of a label."""
        super().update_label_info(guard.uid(label_id), guard.tag(label_tag), label_info(info))

    def remove_image(self, image_id: str) -> None:
        """Not offered: series are removed in the store."""
        raise Refusal(403, "image: remove series in the DICOMweb store.")

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Not offered; see `lib.datastore.Studies`."""
        raise Refusal(403, "dataset: not offered.")

    def _enter(self, header: Dataset) -> None:
        """Enters a fetched series into the index: the patient's id only as a hash."""
        uid, study = str(header.SeriesInstanceUID), str(header.StudyInstanceUID)
        patient = str(header.get("PatientID", "")) or study
        info = {name: str(header.get(name, "")) for name in _KEPT}
        info["patient"] = hashlib.sha256(patient.encode()).hexdigest()[:16]
        self.refresh()
        super().record(uid, info)


def open_store(url: str) -> DicomWebStudies:
    """Opens the store at a URL; user, password and prefixes come from MONAI Label's settings."""
    from dicomweb_client.session_utils import create_session, create_session_from_user_pass

    # MONAI Label writes segmentations with dcmqi's program, which lies beside this python.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    known = bool(user and password)
    session = create_session_from_user_pass(user, password) if known else create_session()
    prefixes = {
        "qido": settings.MONAI_LABEL_QIDO_PREFIX,
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }
    client = DICOMwebClientX(
        url=url,
        session=impatient(session),
        **{f"{name}_url_prefix": prefix for name, prefix in prefixes.items()},
    )
    client.set_http_retry_params(max_attempts=_ATTEMPTS, wait_exponential_multiplier=100)
    wanted = settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER
    return DicomWebStudies(
        client,
        {} if wanted == _UPSTREAM_FILTER else wanted,
        settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or None,
        StoreProxy(url, session, prefixes),
    )

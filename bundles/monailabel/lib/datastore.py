"""The folder of studies as MONAI Label's datastore, closed against names that lead out of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.datastore.local import LocalDatastore
from watchdog.events import FileSystemEvent, FileSystemEventHandler

from lib import guard
from lib.guard import Refusal
from lib.images import IMAGE_SUFFIXES, LABEL_SUFFIXES
from lib.records import checked_info, label_info
from lib.series import LABELS_FOLDER, SeriesFolders

_CHANGES = ("created", "closed", "moved", "deleted")


class _Folders(FileSystemEventHandler):  # type: ignore[misc]
    """Tells where files were written, moved or removed; not where they were only read."""

    def __init__(self, notice: Callable[[Path], None]) -> None:
        self.notice = notice

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Hands on the places of an event."""
        if event.event_type in _CHANGES:
            for place in filter(None, (event.src_path, event.dest_path)):
                self.notice(Path(os.fsdecode(place)))


class Studies(SeriesFolders, LocalDatastore):  # type: ignore[misc]
    """A folder of NIfTI, NRRD, DICOM and picture files, and of folders with one DICOM series each.

    Ids are looked up in the index and never taken as paths; links that lead out of the folder are
    not followed.

    Args:
        folder: of the studies.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(
            folder,
            extensions=[f"*{suffix}" for suffix in IMAGE_SUFFIXES],
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )
        observer = getattr(self, "_observer", None)
        if observer is not None and observer.is_alive():
            observer.schedule(_Folders(self.notice), self._datastore_path, recursive=True)

    def notice(self, path: Path) -> None:
        """Takes over a folder that came or went; MONAI Label's watcher sees single files alone.

        Args:
            path: in the folder of the studies, where something was written, moved or removed.
        """
        root = Path(self._datastore_path)
        name = path.relative_to(root).parts[0] if path != root else ""
        if name and not name.startswith(".") and name != LABELS_FOLDER:
            if (root / name).is_dir() != self.known(name):
                self.refresh()

    def path(self, image_id: object) -> Path:
        """The file or DICOM folder of a study.

        Raises:
            Refusal: 404 for an unknown id, 400 for a link out of the folder.
        """
        self.require(image_id)
        return guard.inside(LocalDatastore.get_image_uri(self, image_id), self._datastore_path)

    def require(self, image_id: object) -> None:
        """Refuses an id that the datastore does not hold.

        Raises:
            Refusal: 404.
        """
        if not isinstance(image_id, str) or not self.known(image_id):
            raise Refusal(404, f"image: there is no study {guard.shown(image_id)}.")

    def list_images(self) -> list[str]:
        """The ids of all studies."""
        with self.turn:
            return list(super().list_images())

    def get_labeled_images(self, *args: Any) -> list[str]:
        """The ids of the studies with a final label."""
        with self.turn:
            return list(super().get_labeled_images(*args))

    def get_unlabeled_images(self, *args: Any) -> list[str]:
        """The ids of the studies without a final label."""
        with self.turn:
            return list(super().get_unlabeled_images(*args))

    def json(self) -> Any:
        """The whole index."""
        with self.turn:
            return super().json()

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is recorded of a study, and path and name of the file for viewers."""
        path = self.get_image_uri(image_id)
        return self.info(image_id) | {"path": path, "name": os.path.basename(path)}

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """The path of a label.

        Raises:
            Refusal: 404 for an unknown id or tag, 400 for a link out of the folder.
        """
        self._require_label(label_id, label_tag)
        return str(guard.inside(super().get_label_uri(label_id, label_tag), self._datastore_path))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is recorded of a label."""
        self._require_label(label_id, label_tag)
        return dict(super().get_label_info(label_id, label_tag))

    def _require_label(self, label_id: str, label_tag: str) -> None:
        self.require(label_id)
        if guard.tag(label_tag) not in self.get_labels_by_image_id(label_id):
            raise Refusal(404, f"label: the study has no label tagged {guard.shown(label_tag)}.")

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Adds a study from a temporary file that we named."""
        name = guard.new_id(image_id) + guard.suffix_of(image_filename, IMAGE_SUFFIXES)
        self._require_free_name(Path(self._datastore.image_path()), name)
        with self.changing():
            return str(super().add_image(image_id, image_filename, dict(checked_info(image_info))))

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, info: dict[str, Any]
    ) -> str:
        """Saves the label of a known study under a plain tag."""
        self.require(image_id)
        checked = label_info(info)
        label_tag = guard.tag(label_tag)
        name = image_id + guard.suffix_of(label_filename, LABEL_SUFFIXES)
        self._require_free_name(Path(self._datastore.label_path(label_tag)), name)
        with self.changing():
            return str(super().save_label(image_id, label_filename, label_tag, checked))

    def _require_free_name(self, folder: Path, name: str) -> None:
        """Refuses to write through a link."""
        guard.inside(folder / "x", self._datastore_path)
        if (folder / name).is_symlink():
            raise Refusal(400, "image: expected a file of the datastore, found a link.")

    def remove_image(self, image_id: str) -> None:
        """Removes a study and its labels."""
        self.path(image_id)
        with self.changing():
            super().remove_image(image_id)
        self.refresh()

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Removes a label."""
        self._require_label(label_id, label_tag)
        with self.changing():
            super().remove_label(label_id, guard.tag(label_tag))

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Records what a client says of a study, such as ``{"normal": true}``."""
        self.require(image_id)
        self.record(image_id, checked_info(info))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Records what a client says of a label."""
        self._require_label(label_id, label_tag)
        checked = label_info(info)
        with self.changing():
            super().update_label_info(label_id, label_tag, checked)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Not offered: the archive would be a copy of patients' data that nobody removes."""
        raise Refusal(403, "dataset: not offered; copy the folder of the studies instead.")

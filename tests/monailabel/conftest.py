"""A tiny model, a few studies and a real MONAI Label server on the loopback interface."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
from monai.bundle import run
from pydicom.dataset import FileDataset, FileMetaDataset

from benchmarks.label_server import APP, ROOT, free_port, running, start_arguments
from pipelines.data.phantom.writer import ensure_phantom_dataset

collect_ignore = [
    *("dicomweb_store.py", "offline.py", "read_seg.py", "slicer_client.py", "write_records.py"),
]  # programs

PYTHON = os.environ.get("AEFLOW_LABEL_PYTHON", "")
TINY: dict[str, Any] = {
    "image_size": 32,
    "flow_steps": 2,
    "decoder_width": 4,
    "pretrain_epochs": 1,
    "pretrain_epoch_size": 32,
    "pretrain_batch_size": 16,
    "max_epochs": 1,
    "batch_size": 16,
    "target_fpr": 0.2,
}
VERY_SUSPICIOUS = 99.5
SECRET = "Doe^Jane"
ANYWHERE = ("test_imports.py", "test_options.py", "test_serving.py")
"""Tests that need no label environment."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not PYTHON:
        skip = pytest.mark.skip(
            reason="set AEFLOW_LABEL_PYTHON to the python of bundles/monailabel/build_env.sh"
        )
        for item in items:
            if Path(__file__).parent in Path(item.path).parents and item.path.name not in ANYWHERE:
                item.add_marker(skip)


@dataclass
class Server:
    """A running server.

    Attributes:
        url: where it answers.
        studies: folder of the studies.
        ckpt_dir: folder of the served model.
        log: what it prints.
        temporary: the folder that holds its temporary folder.
        seconds: from the start of the process to the first answer.
    """

    url: str
    studies: Path
    ckpt_dir: Path
    log: Path
    temporary: Path
    process: subprocess.Popen[bytes]
    seconds: float = 0.0
    session: requests.Session = field(default_factory=requests.Session)

    def call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=120, **kwargs)

    def get(self, path: str, **kwargs: Any) -> Any:
        response = self.call("GET", path, **kwargs)
        assert response.status_code == 200, response.text
        return response.json()

    def infer(self, image: str = "", output: str = "json", **kwargs: Any) -> requests.Response:
        params = kwargs.pop("params", {})
        query = {"image": image, "output": output, **kwargs.pop("query", {})}
        data = {"params": json.dumps(params)}
        return self.call("POST", "/infer/aeflow", params=query, data=data, **kwargs)

    def wait(self, task: str, seconds: float = 150.0) -> dict[str, Any]:
        """Waits until no background task of a kind runs or waits; gives the last one."""
        end = time.monotonic() + seconds
        path = "/batch/infer" if task == "batch" else f"/{task}/"
        while time.monotonic() < end:
            response = self.call("GET", path, params={"all": "true"})
            listed = response.json() if response.status_code == 200 else []
            if all(one["status"] not in ("SUBMITTED", "RUNNING") for one in listed):
                return listed[-1] if listed else {}
            time.sleep(0.5)
        raise TimeoutError(f"{task} still runs: {self.log.read_text()[-2000:]}")


def start_command(studies: Path | str, ckpt_dir: Path, port: int, **conf: Any) -> list[str]:
    options = {"models": "aeflow", "ckpt_dir": ckpt_dir, "very_suspicious": VERY_SUSPICIOUS, **conf}
    return [PYTHON, "-m", "monailabel.main", *start_arguments(APP, studies, port, **options)]


def start_environment(temporary: Path) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MONAI_LABEL")}
    return inherited | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Starts servers; each is a context that ends with its whole process group."""

    @contextlib.contextmanager
    def start(
        studies: Path | str,
        ckpt_dir: Path,
        environment: dict[str, str] | None = None,
        expected: int = 200,
        **conf: Any,
    ) -> Iterator[Server]:
        place = tmp_path_factory.mktemp("server")
        (place / "tmp").mkdir()
        port = free_port()
        command = start_command(studies, ckpt_dir, port, **conf)
        inherited = start_environment(place / "tmp") | (environment or {})
        log = place / "log.txt"
        with running(command, port, log, inherited, expected, place) as (process, seconds):
            url = f"http://127.0.0.1:{port}"
            folder = Path(studies) if "://" not in str(studies) else place
            yield Server(url, folder, ckpt_dir, log, place / "tmp", process, seconds)
        assert_gone(place / "tmp")

    return start


def assert_gone(folder: Path, seconds: float = 60.0) -> None:
    """No temporary file and no process of a server may outlive it.

    MONAI Label itself leaves its logging configuration, a JSON file without any data.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and (_left(folder) or _processes_with(str(folder))):
        time.sleep(0.2)
    assert not _left(folder)
    assert not _processes_with(str(folder))


def _left(folder: Path) -> list[Path]:
    return [one for one in folder.iterdir() if one.suffix != ".json"]


def _processes_with(word: str) -> list[str]:
    found = []
    for one in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={word}" in one.read_bytes().decode(errors="replace"):
                found.append(one.parent.name)
    return found


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_phantom_dataset(
        tmp_path_factory.mktemp("phantoms"), patients=6, size=(64, 64, 24)
    )


@pytest.fixture(scope="session")
def trained(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny trained model."""
    folder = tmp_path_factory.mktemp("trained")
    hook = sys.excepthook
    run(
        "training",
        config_file=str(ROOT / "bundles" / "aeflow" / "train.json"),
        dataset_dir=str(phantoms),
        output_dir=str(folder / "output"),
        ckpt_dir=str(folder / "models"),
        tracking_uri="none",
        **TINY,
    )
    sys.excepthook = hook
    return folder / "models"


@pytest.fixture(scope="session")
def volumes(phantoms: Path) -> list[Path]:
    return sorted(phantoms.rglob("*_flair.nii.gz"))


@pytest.fixture(scope="session")
def server(
    trained: Path,
    volumes: list[Path],
    start_server: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """A server on three NIfTI studies and a DICOM series, with a model that it may replace."""
    folder = tmp_path_factory.mktemp("place")
    studies = folder / "studies"
    studies.mkdir()
    for number, path in enumerate(volumes[:3]):
        shutil.copy(path, studies / f"study{number}.nii.gz")
    write_series(volumes[3], studies / "series.one")
    shutil.copytree(trained, folder / "models")
    options = {k: v for k, v in TINY.items() if k != "image_size"}
    with start_server(studies, folder / "models", train=json.dumps(options)) as running:
        yield running


def write_series(volume: Path, folder: Path, study_uid: str | None = None) -> list[Path]:
    """Writes a NIfTI volume as a DICOM series of a patient with a name."""
    image = nib.as_closest_canonical(nib.load(volume))
    values = np.asarray(image.dataobj, np.float32)
    values = np.rint(values / values.max() * 4000).astype(np.uint16)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    uids = [pydicom.uid.generate_uid() for _ in range(3)]
    folder.mkdir(parents=True)
    files = []
    for z in range(values.shape[2]):
        one = _slice_header(study_uid or uids[0], uids[1], uids[2], z)
        position = lps[:3, 3] + z * lps[:3, 2]
        directions = np.concatenate([lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]])
        one.ImagePositionPatient = [f"{v:.6f}" for v in position]
        one.ImageOrientationPatient = [f"{v:.6f}" for v in directions]
        one.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
        one.SliceThickness = f"{spacing[2]:.6f}"
        one.Rows, one.Columns = values.shape[1], values.shape[0]
        one.PixelData = np.ascontiguousarray(values[:, :, z].T).tobytes()
        files.append(folder / f"{z:03d}.dcm")
        one.save_as(files[-1], write_like_original=False)
    return files


def _slice_header(study: str, series: str, frame: str, number: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    one.is_little_endian, one.is_implicit_VR = True, False
    one.SOPClassUID = meta.MediaStorageSOPClassUID
    one.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
    one.PatientName, one.PatientID, one.PatientBirthDate = SECRET, "SECRET-ID-77", "19700101"
    one.PatientSex, one.StudyDate, one.StudyTime = "O", "20260101", "120000"
    one.StudyID, one.AccessionNumber, one.ReferringPhysicianName = "1", "1", ""
    one.Manufacturer, one.Modality, one.PositionReferenceIndicator = "Phantom", "MR", ""
    one.SeriesNumber, one.InstanceNumber = 1, number + 1
    one.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    one.ScanningSequence, one.SequenceVariant, one.ScanOptions = "SE", "NONE", ""
    one.MRAcquisitionType, one.EchoTime, one.RepetitionTime = "2D", "10", "500"
    one.EchoTrainLength = 1
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    return one


@pytest.fixture(scope="session")
def make_series() -> Callable[..., list[Path]]:
    return write_series


@pytest.fixture(scope="session")
def gone() -> Callable[[Path], None]:
    return assert_gone


@pytest.fixture(scope="module")
def store(
    volumes: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, list[Path]]]:
    """A store with one series."""
    folder = tmp_path_factory.mktemp("store")
    files = write_series(volumes[1], folder / "series")
    port = free_port()
    script = Path(__file__).with_name("dicomweb_store.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(port)], start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{url}/series", timeout=10).status_code == 200:
                    break
            time.sleep(0.2)
        yield url, files
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def store_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a server on a store: a cache of its own."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return {"MONAI_LABEL_DICOMWEB_CACHE_PATH": cache, "HOME": cache}


@pytest.fixture(scope="session")
def how_to_start() -> Callable[..., list[str]]:
    """Gives the command that starts a server."""
    return start_command


@pytest.fixture(scope="session")
def where_to_start() -> Callable[[Path], dict[str, str]]:
    """Gives the environment variables of a server with a temporary folder."""
    return start_environment


@pytest.fixture(scope="session")
def any_port() -> Callable[[], int]:
    return free_port

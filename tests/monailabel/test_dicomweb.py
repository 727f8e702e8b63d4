import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests

from pipelines.cases import Case
from pipelines.prediction import Predictor

PYTHON = os.environ.get("AEFLOW_LABEL_PYTHON", "")


@pytest.fixture(scope="module")
def store(
    volumes: list[Path],
    make_series: Callable[..., list[Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, list[Path]]]:
    """A store with one series."""
    folder = tmp_path_factory.mktemp("store")
    files = make_series(volumes[1], folder / "series")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
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
def own(
    store: tuple[str, list[Path]],
    trained: Path,
    start_server: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    cache = tmp_path_factory.mktemp("cache")
    environment = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(cache), "HOME": str(cache)}
    environment["MONAI_LABEL_AUTO_UPDATE_SCORING"] = "false"
    with start_server(store[0], trained, environment) as running:
        yield running


def uid_of(files: list[Path]) -> str:
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)


def test_label_map_of_a_series_in_the_store(
    own: Any, store: tuple[str, list[Path]], tmp_path: Path
) -> None:
    files = store[1]
    uid = uid_of(files)
    assert own.get("/info/")["datastore"]["total"] == 1
    scored = Predictor(own.ckpt_dir)(Case("study", "study", (files[0].parent,)))
    response = own.infer(uid, "image")
    assert response.status_code == 200, response.text
    (tmp_path / "label.nii.gz").write_bytes(response.content)
    label = nib.load(tmp_path / "label.nii.gz")
    np.testing.assert_allclose(label.affine, scored.sample.geometry.affine, atol=1e-5)
    threshold = float(Predictor(own.ckpt_dir).scorer.pixel_threshold)
    expected = scored.grid_map().as_tensor().numpy() > threshold
    assert ((np.asarray(label.dataobj) > 0) != expected).sum() <= 2 and expected.any()
    assert own.infer(uid).json()["score"] == pytest.approx(scored.case_score.score, abs=1e-5)


def test_segmentation_refers_to_the_series(
    own: Any, store: tuple[str, list[Path]], tmp_path: Path
) -> None:
    headers = [pydicom.dcmread(one, stop_before_pixels=True) for one in store[1]]
    response = own.infer(uid_of(store[1]), "dicom_seg")
    assert response.status_code == 200, response.text
    (tmp_path / "seg.dcm").write_bytes(response.content)
    script = Path(__file__).with_name("read_seg.py")
    done = subprocess.run(
        [PYTHON, str(script), str(tmp_path / "seg.dcm")],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seg = json.loads(done.stdout.splitlines()[-1])
    assert seg["series"] == headers[0].SeriesInstanceUID
    assert seg["study"] == headers[0].StudyInstanceUID
    assert set(seg["sources"]) == {str(one.SOPInstanceUID) for one in headers}
    bands = own.infer(uid_of(store[1])).json()["bands"].values()
    assert seg["pixels"] == sum(band["voxels"] for band in bands) > 0


def test_series_are_offered_and_scored(own: Any, store: tuple[str, list[Path]]) -> None:
    uid = uid_of(store[1])
    own.call("POST", "/scoring/anomaly_score", json={})
    assert own.wait("scoring")["status"] == "DONE"
    offered = own.call("POST", "/activelearning/most_anomalous", json={}).json()
    assert offered["id"] == uid
    assert offered["aeflow"]["score"] == pytest.approx(own.infer(uid).json()["score"], abs=1e-4)
    assert nib.load(offered["path"]).shape == (64, 64, 24)


def test_final_label_goes_to_the_store(
    own: Any, store: tuple[str, list[Path]], tmp_path: Path
) -> None:
    uid = uid_of(store[1])
    (tmp_path / "label.nii.gz").write_bytes(own.infer(uid, "image").content)
    info = {"label_info": [{"name": "suspicious"}, {"name": "very suspicious"}]}
    with (tmp_path / "label.nii.gz").open("rb") as stream:
        answer = own.call(
            "PUT",
            f"/datastore/label?image={uid}&tag=final",
            files={"label": ("label.nii.gz", stream)},
            data={"params": json.dumps(info)},
        )
    assert answer.status_code == 200, answer.text
    stored = list(store[1][0].parents[1].glob("stored-*.dcm"))
    assert len(stored) == 1
    assert pydicom.dcmread(stored[0]).Modality == "SEG"
    assert own.get("/info/")["datastore"]["total"] == 1


@pytest.mark.parametrize("image", ["../x", "/etc/passwd", "1.2.3", "1..2", "1.2/../../x"])
def test_wrong_ids_are_refused(own: Any, image: str) -> None:
    assert own.infer(image).status_code in (400, 404)


def test_no_identifier_is_logged_or_kept_in_the_index(own: Any) -> None:
    log = own.log.read_text()
    index = json.dumps(own.get("/datastore/?output=all"))
    for secret in ("Doe", "SECRET", "19700101"):
        assert secret not in log and secret not in index


def test_nothing_outlives_a_server_that_is_killed(own: Any, gone: Callable[[Path], None]) -> None:
    own.call("POST", "/batch/infer/aeflow", json={"images": "all"})
    end = time.monotonic() + 60
    while time.monotonic() < end and own.get("/batch/infer")["status"] == "SUBMITTED":
        time.sleep(0.2)
    assert own.get("/batch/infer")["status"] == "RUNNING"
    os.kill(own.process.pid, signal.SIGKILL)
    own.process.wait(20)
    gone(own.temporary)

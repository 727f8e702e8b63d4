import gzip
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests

from pipelines.data.cases import Case
from pipelines.outputs.maps import write_volume
from pipelines.scoring.model_file import model_version, read_model
from pipelines.scoring.predictor import Predictor
from transforms.readers import read_image

PYTHON = os.environ.get("AEFLOW_LABEL_PYTHON", "")


@pytest.fixture(scope="module")
def own(
    store: tuple[str, list[Path]],
    trained: Path,
    start_server: Callable[..., Any],
    store_environment: dict[str, str],
) -> Iterator[Any]:
    with start_server(store[0], trained, store_environment) as running:
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
    threshold = float(Predictor(own.ckpt_dir).scorer.calibration.pixel_threshold)
    expected = scored.grid_map.as_tensor().numpy() > threshold
    assert ((np.asarray(label.dataobj) > 0) != expected).sum() <= 2 and expected.any()
    assert own.infer(uid).json()["score"] == pytest.approx(scored.case_score.score, abs=1e-5)


def test_viewers_get_the_volume_that_was_scored(
    own: Any, store: tuple[str, list[Path]], tmp_path: Path
) -> None:
    """The same file as of a DICOM folder among the studies."""
    folder = store[1][0].parent
    content = own.call("GET", f"/datastore/image?image={uid_of(store[1])}").content
    volume = read_image(folder)
    write_volume(tmp_path / "own.nii.gz", volume.numpy()[0], volume.affine.numpy(), {})
    assert gzip.decompress(content) == gzip.decompress((tmp_path / "own.nii.gz").read_bytes())


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
    words = own.infer(uid_of(store[1])).json()
    assert seg["pixels"] == sum(band["voxels"] for band in words["bands"].values()) > 0
    model = model_version(read_model(own.ckpt_dir))
    assert seg["version"] == seg["software"] == words["model_version"] == model


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


def test_an_empty_final_label_marks_the_series_normal_and_is_not_stored(
    own: Any, store: tuple[str, list[Path]], tmp_path: Path
) -> None:
    uid, folder = uid_of(store[1]), store[1][0].parents[1]
    before = list(folder.glob("stored-*.dcm"))
    (tmp_path / "label.nii.gz").write_bytes(own.infer(uid, "image").content)
    label = nib.load(tmp_path / "label.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), tmp_path / "0.nii.gz")
    (tmp_path / "0.bin").write_bytes(bytes(label.shape[0] * label.shape[1] * label.shape[2]))
    for name in ("0.nii.gz", "0.bin"):
        own.call("PUT", f"/datastore/image/info?image={uid}", data={"info": '{"normal": false}'})
        with (tmp_path / name).open("rb") as stream:
            answer = own.call(
                "PUT", f"/datastore/label?image={uid}&tag=final", files={"label": (name, stream)}
            )
        assert answer.status_code == 200, answer.text
        assert own.get(f"/datastore/image/info?image={uid}")["normal"] is True, name
    assert list(folder.glob("stored-*.dcm")) == before


def test_a_label_that_does_not_fit_is_refused(own: Any, store: tuple[str, list[Path]]) -> None:
    uid = uid_of(store[1])
    files = {"label": ("label.bin", b"\1" * 1000)}
    answer = own.call("PUT", f"/datastore/label?image={uid}&tag=final", files=files)
    assert answer.status_code == 400 and "grid" in answer.json()["detail"], answer.text


def test_viewers_reach_the_store_through_the_server(
    own: Any, store: tuple[str, list[Path]]
) -> None:
    header = pydicom.dcmread(store[1][0], stop_before_pixels=True)
    study, series = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
    proxy = "/proxy/dicom"
    assert len(own.get(f"{proxy}/qido/studies?limit=9")) == 1
    assert own.get(f"{proxy}/qido/studies?PatientID=nobody") == []
    assert len(own.get(f"{proxy}/qido/studies/{study}/series/{series}/metadata")) == 24
    one = f"{proxy}/wado/studies/{study}/series/{series}/instances/{header.SOPInstanceUID}"
    frame = own.call("GET", f"{one}/frames/1")
    assert frame.headers["content-type"].startswith("multipart/related")
    assert pydicom.dcmread(store[1][0]).PixelData in frame.content
    assert own.call("GET", f"{proxy}/wado/studies/{study}/nothing").status_code == 404


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("qido/admin", 400),
        ("qido/studies@x", 400),
        ("qido//evil.example/x", 400),
        ("wado/studies/../../x", 400),
        ("ftp/studies", 404),
    ],
)
def test_the_store_is_asked_for_images_alone(own: Any, path: str, expected: int) -> None:
    session = requests.Session()
    request = requests.Request("GET", "http://x").prepare()
    request.url = f"{own.url}/proxy/dicom/{path}"  # as it stands, without any tidying
    assert session.send(request, timeout=60).status_code == expected


@pytest.mark.parametrize("image", ["../x", "/etc/passwd", "1.2.3", "1..2", "1.2/../../x"])
def test_wrong_ids_are_refused(own: Any, image: str) -> None:
    assert own.infer(image).status_code in (400, 404)


def test_no_identifier_is_logged_or_kept_in_the_index(own: Any) -> None:
    log = own.log.read_text()
    index = json.dumps(own.get("/datastore/?output=all"))
    kept = own.call("GET", "/logs/").text
    for secret in ("Doe", "SECRET", "19700101"):
        assert secret not in log and secret not in index and secret not in kept


def test_a_series_that_forms_no_volume_is_refused_and_told(
    own: Any, store: tuple[str, list[Path]], make_series: Callable[..., Any], volumes: list[Path]
) -> None:
    files = make_series(volumes[1], store[1][0].parents[1] / "gap")
    files[5].unlink()
    uid = uid_of(files)
    time.sleep(1.1)  # so that the store is asked for its series again
    try:
        for answer in (own.infer(uid), own.call("GET", f"/datastore/image?image={uid}")):
            assert answer.status_code == 400 and "spaced" in answer.json()["detail"], answer.text
        own.call("POST", "/scoring/anomaly_score", json={})
        assert own.wait("scoring")["status"] == "DONE"
        info = own.get("/datastore/?output=all")["objects"][uid]["image"]["info"]
        assert "spaced" in info["aeflow"]["failed"] and len(info["patient"]) == 16
    finally:
        shutil.rmtree(files[0].parent)


def test_nothing_outlives_a_server_that_is_killed(own: Any, gone: Callable[[Path], None]) -> None:
    own.call("POST", "/batch/infer/aeflow", json={"images": "all"})
    end = time.monotonic() + 60
    while time.monotonic() < end and own.get("/batch/infer")["status"] == "SUBMITTED":
        time.sleep(0.2)
    assert own.get("/batch/infer")["status"] == "RUNNING"
    os.kill(own.process.pid, signal.SIGKILL)
    own.process.wait(20)
    gone(own.temporary)

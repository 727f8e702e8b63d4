import gzip
import hashlib
import json
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from monai.bundle import run

from networks.levels import level_at
from pipelines.data.cases import Case
from pipelines.scoring.predictor import Predictor

ROOT = Path(__file__).parents[2]
STUDY = "study1"


def expected_map(server: Any, path: Path) -> Any:
    scored = Predictor(server.ckpt_dir)(Case("study", "study", (path,)))
    return scored, scored.grid_map.as_tensor().numpy()


def parts_of(response: Any) -> dict[str, bytes]:
    boundary = response.headers["content-type"].split("boundary=")[1].encode()
    found = {}
    for part in response.content.split(b"--" + boundary)[1:-1]:
        header, content = part.strip(b"\r\n").split(b"\r\n\r\n", 1)
        found[header.split(b'name="')[1].split(b'"')[0].decode()] = content
    return found


def test_info_offers_everything(server: Any) -> None:
    info = server.get("/info/")
    assert info["labels"] == ["suspicious", "very suspicious"]
    assert set(info["models"]) == set(info["trainers"]) == {"aeflow"}
    assert set(info["strategies"]) == {"most_anomalous", "most_uncertain", "random"}
    assert info["datastore"]["total"] >= 3


def test_words_say_score_parts_and_threshold(server: Any) -> None:
    path = server.studies / f"{STUDY}.nii.gz"
    words = server.infer(STUDY).json()
    scored, anomaly_map = expected_map(server, path)
    for name, value in scored.case_score.as_dict().items():
        assert words[name] == pytest.approx(value, abs=1e-5), name
    threshold = float(Predictor(server.ckpt_dir).scorer.calibration.pixel_threshold)
    band = words["bands"]["suspicious"]
    assert band["above"] == pytest.approx(threshold)
    both = band["voxels"] + words["bands"]["very suspicious"]["voxels"]
    assert both == pytest.approx((anomaly_map > threshold).sum(), abs=2)
    assert words["label_names"] == {"suspicious": 1, "very suspicious": 2}


def test_label_map_has_the_bands_on_the_grid_of_the_input(server: Any, tmp_path: Path) -> None:
    path = server.studies / f"{STUDY}.nii.gz"
    response = server.infer(STUDY, "image")
    (tmp_path / "label.nii.gz").write_bytes(response.content)
    label, source = nib.load(tmp_path / "label.nii.gz"), nib.load(path)
    np.testing.assert_allclose(label.affine, source.affine, atol=1e-6)
    assert label.get_data_dtype() == np.uint8
    scorer = Predictor(server.ckpt_dir).scorer
    _, anomaly_map = expected_map(server, path)
    first, second = (
        float(scorer.calibration.pixel_threshold),
        level_at(scorer.calibration.pixel_levels, 99.5),
    )
    bands = (anomaly_map > first).astype(int) + (anomaly_map > second)
    assert label.shape == source.shape
    assert (np.asarray(label.dataobj) != bands).sum() <= 2
    assert set(np.unique(bands)) == {0, 1, 2}
    told = server.infer(STUDY).json()["bands"]
    assert told["suspicious"]["percentile"] == pytest.approx(99.0)
    assert told["very suspicious"]["percentile"] == 99.5
    assert told["very suspicious"]["above"] == pytest.approx(second)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_float_map_is_that_of_the_predictor(server: Any, suffix: str, tmp_path: Path) -> None:
    path = server.studies / f"{STUDY}.nii.gz"
    wanted = {"result": "map", "result_extension": suffix}
    response = server.infer(STUDY, "all", params=wanted)
    parts = parts_of(response)
    words, file = json.loads(parts["params"]), tmp_path / f"map{suffix}"
    file.write_bytes(parts["image"])
    _, anomaly_map = expected_map(server, path)
    image = sitk.ReadImage(str(file))
    assert image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_allclose(sitk.GetArrayFromImage(image).T, anomaly_map, atol=1e-5)
    reference = sitk.ReadImage(str(path))
    for own, other in ((image.GetOrigin(), reference.GetOrigin()),):
        np.testing.assert_allclose(own, other, atol=1e-4)
    np.testing.assert_allclose(image.GetDirection(), reference.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(image.GetSpacing(), reference.GetSpacing(), atol=1e-6)
    assert words["map"]["highest"] == pytest.approx(anomaly_map.max(), abs=1e-5)
    if suffix == ".nii.gz":
        np.testing.assert_allclose(nib.load(file).affine, nib.load(path).affine, atol=1e-6)


def test_map_in_eight_bits_is_scaled(server: Any, tmp_path: Path) -> None:
    wanted = {"result": "map", "result_extension": ".nrrd", "result_dtype": "uint8"}
    parts = parts_of(server.infer(STUDY, "all", params=wanted))
    (tmp_path / "map.nrrd").write_bytes(parts["image"])
    levels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "map.nrrd"))).T
    assert levels.dtype == np.uint8 and levels.max() == 255 and levels.any()
    told = json.loads(parts["params"])["map"]
    _, anomaly_map = expected_map(server, server.studies / f"{STUDY}.nii.gz")
    back = levels * told["slope"] + told["intercept"]
    np.testing.assert_allclose(back, anomaly_map, atol=told["slope"] * 0.51)


def test_slicer_segmentation_names_its_segments(server: Any, tmp_path: Path) -> None:
    response = server.infer(STUDY, "image", params={"result_extension": ".seg.nrrd"})
    (tmp_path / "label.seg.nrrd").write_bytes(response.content)
    image = sitk.ReadImage(str(tmp_path / "label.seg.nrrd"))
    assert image.GetMetaData("Segment1_Name") == "very suspicious"
    assert image.GetMetaData("Segment1_LabelValue") == "2"


def test_nrrd_study_gives_the_same_as_nifti(server: Any, tmp_path: Path) -> None:
    source = server.studies / f"{STUDY}.nii.gz"
    image = sitk.ReadImage(str(source))
    sitk.WriteImage(image, str(tmp_path / "copy.nrrd"))
    with (tmp_path / "copy.nrrd").open("rb") as stream:
        files = {"file": ("copy.nrrd", stream)}
        added = server.call("PUT", "/datastore/image?image=copy", files=files)
    assert added.status_code == 200, added.text
    one, other = server.infer("copy").json(), server.infer(STUDY).json()
    assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    label = server.infer("copy", "image")
    assert label.headers["content-disposition"].endswith('.nrrd"')
    (tmp_path / "label.nrrd").write_bytes(label.content)
    written = sitk.ReadImage(str(tmp_path / "label.nrrd"))
    np.testing.assert_allclose(written.GetOrigin(), image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(written.GetDirection(), image.GetDirection(), atol=1e-6)
    assert server.call("DELETE", "/datastore/image?id=copy").status_code == 200


def test_dicom_series_by_session(
    server: Any, volumes: list[Path], make_series: Callable[..., list[Path]], tmp_path: Path
) -> None:
    files = make_series(volumes[1], tmp_path / "series")
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for number, file in enumerate(files):
            archive.write(file, f"JANE_DOE/IM{number:04d}")
    with (tmp_path / "series.zip").open("rb") as stream:
        upload = {"files": ("JANE_DOE.zip", stream)}
        made = server.call("PUT", "/session/?uncompress=true", files=upload)
    assert made.status_code == 200, made.text
    session = made.json()["session_id"]
    query = {"session_id": session}
    wanted = {"result": "map", "result_extension": ".nii.gz"}
    response = server.infer("", "image", params=wanted, query=query)
    (tmp_path / "map.nii.gz").write_bytes(response.content)
    written = nib.load(tmp_path / "map.nii.gz")
    scored, anomaly_map = expected_map(server, tmp_path / "series")
    np.testing.assert_allclose(written.affine, scored.sample.geometry.affine, atol=1e-5)
    np.testing.assert_allclose(np.asarray(written.dataobj), anomaly_map, atol=1e-5)
    assert server.call("DELETE", f"/session/{session}").status_code == 200
    assert server.infer("", query=query).status_code == 404
    assert "Jane" not in server.log.read_text() and "JANE" not in server.log.read_text()


def test_dicom_folder_among_the_studies(server: Any) -> None:
    folder = server.studies / "series.one"
    words = server.infer("series.one").json()
    scored, _ = expected_map(server, folder)
    assert words["score"] == pytest.approx(scored.case_score.score, abs=1e-5)


def test_viewers_get_a_dicom_folder_as_one_file(server: Any, tmp_path: Path) -> None:
    info = server.get("/datastore/image/info?image=series.one")
    assert info["name"] == "series.one.nii.gz" and info["path"].endswith("/series.one.nii.gz")
    content = server.call("GET", "/datastore/image?image=series.one").content
    (tmp_path / "copy.nii.gz").write_bytes(content)
    copy = nib.load(tmp_path / "copy.nii.gz")
    scored, _ = expected_map(server, server.studies / "series.one")
    np.testing.assert_allclose(copy.affine, scored.sample.geometry.affine, atol=1e-5)
    response = server.infer("series.one", "image", params={"result_extension": ".nii.gz"})
    (tmp_path / "label.nii.gz").write_bytes(response.content)
    label = nib.load(tmp_path / "label.nii.gz")
    assert label.shape == copy.shape
    np.testing.assert_allclose(label.affine, copy.affine, atol=1e-5)
    assert sorted(one.name for one in server.studies.iterdir() if "series" in one.name) == [
        "series.one"
    ]


def test_a_folder_that_cannot_be_copied_is_refused_every_time(server: Any) -> None:
    server.wait("scoring")  # whose start would find the folder as well
    folder = server.studies / "series.linked"
    shutil.copytree(server.studies / "series.one", folder)
    (folder / "link.dcm").symlink_to(server.studies / "study0.nii.gz")
    try:
        wait_for_study(server, "series.linked")
        for _ in range(2):
            answer = server.call("GET", "/datastore/image?image=series.linked")
            assert answer.status_code == 400 and "holds a link" in answer.json()["detail"]
    finally:
        shutil.rmtree(folder)


def test_the_map_is_that_of_batch_evaluation(
    server: Any, trained: Path, phantoms: Path, tmp_path: Path
) -> None:
    if server.infer(STUDY).json()["model"] != fingerprint(trained / "model.pt"):
        pytest.skip("the model was retrained by another test")
    hook = sys.excepthook
    run(
        "evaluating",
        config_file=str(ROOT / "bundles" / "aeflow" / "evaluate.json"),
        dataset_dir=str(phantoms),
        ckpt_dir=str(trained),
        output_dir=str(tmp_path),
        tracking_uri="none",
    )
    sys.excepthook = hook
    maps = sorted((tmp_path / "maps").glob("*_anomaly.nii.gz"))
    assert maps
    for path in maps:
        name = path.name.removesuffix("_anomaly.nii.gz")
        source = next(phantoms.rglob(f"{name}_flair.nii.gz"))
        with source.open("rb") as stream:
            files = {"file": ("x.nii.gz", stream)}
            response = server.infer("", "image", params={"result": "map"}, files=files)
        (tmp_path / "served.nii.gz").write_bytes(response.content)
        served, evaluated = nib.load(tmp_path / "served.nii.gz"), nib.load(path)
        np.testing.assert_array_equal(served.affine, evaluated.affine)
        np.testing.assert_allclose(
            np.asarray(served.dataobj), np.asarray(evaluated.dataobj), atol=1e-5
        )


def fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_a_batch_labels_what_it_can(server: Any) -> None:
    (server.studies / "broken.nii.gz").write_bytes(b"no image")
    images = ["broken", "study0", "study1"]
    wait_for_study(server, "broken")
    try:
        body = {"images": images, "label_tag": "batch"}
        began = server.call("POST", "/batch/infer/aeflow", json=body)
        assert began.status_code == 200, began.text
        done = server.wait("batch")
    finally:
        (server.studies / "broken.nii.gz").unlink()
    assert done["status"] == "DONE", done
    assert any("2 labelled, 1 failed" in line for line in done["details"]), done["details"]
    for name in images[1:]:
        assert server.call("GET", f"/datastore/label?label={name}&tag=batch").status_code == 200
        assert server.call("DELETE", f"/datastore/label?id={name}&tag=batch").status_code == 200


def wait_for_study(server: Any, name: str) -> None:
    end = time.monotonic() + 30
    while name not in server.get("/datastore/?output=all")["objects"]:
        assert time.monotonic() < end
        time.sleep(0.2)


def test_file_that_is_no_image_is_refused_with_a_reason(server: Any) -> None:
    files = {"file": ("x.nii.gz", gzip.compress(b"no image"))}
    response = server.infer("", files=files)
    assert response.status_code == 400 and "no NIfTI header" in response.json()["detail"]
    assert "/" not in response.json()["detail"].replace("NIfTI/", "")


def test_model_that_does_not_load_leaves_the_old_one(server: Any) -> None:
    path = server.ckpt_dir / "model.pt"
    before = server.infer(STUDY).json()
    shutil.copy(path, path.with_suffix(".kept"))
    try:
        path.write_bytes(b"half a file")
        after = server.infer(STUDY).json()
    finally:
        path.with_suffix(".kept").replace(path)
    assert after["model"] == before["model"] and after["score"] == before["score"]
    assert server.infer(STUDY).json()["model"] == before["model"]

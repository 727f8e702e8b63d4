"""Scoring new images."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import run
from PIL import Image

from pipelines.data.cases import Case
from pipelines.runs import session
from pipelines.scoring.model_file import model_version, read_model
from pipelines.scoring.predictor import Predictor

BUNDLE = Path(__file__).parents[2] / "bundles" / "aeflow"
AFFINE = np.array([[0, -2.0, 0, 9], [-1, 0, 0, 7], [0, 0, 1.5, -5], [0, 0, 0, 1]])
MistakeOf = Callable[..., str]
WriteModel = Callable[..., dict[str, Any]]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def write_volume(path: Path, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).normal(100, 20, (20, 24, 8)).clip(1).astype(np.float32)
    values[:3] = values[-3:] = values[:, :3] = values[:, -3:] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, AFFINE)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def write_picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(1, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(levels).save(path)
    return path


def write_series(folder: Path) -> Path:
    """Writes the volume of `write_volume` as DICOM slices."""
    volume: Any = nib.load(write_volume(folder.parent / "volume.nii.gz"))
    values = np.asarray(volume.dataobj).astype(np.uint16)
    folder.mkdir()
    for number in range(values.shape[2]):
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        one = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        one.is_little_endian, one.is_implicit_VR = True, False
        one.SOPClassUID = meta.MediaStorageSOPClassUID
        one.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
        one.FrameOfReferenceUID, one.Modality = "1.2.3.3", "MR"
        one.ImagePositionPatient = [0, 0, 1.5 * number]
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.SliceThickness = [2, 1], 1.5
        one.Columns, one.Rows = values.shape[:2]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.PixelData = np.ascontiguousarray(values[:, :, number].T).tobytes()
        one.save_as(folder / f"{number}.dcm")
    return folder


@pytest.fixture
def summary(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """The last lines that a run told."""
    lines: list[str] = []
    monkeypatch.setattr(session.logger, "info", lambda text, *_: lines.append(text))
    return lambda: lines[-1]


def infer(images: Path, models: Path, output: Path, **options: Any) -> None:
    run(
        "inferring",
        config_file=str(BUNDLE / "inference.json"),
        input=str(images),
        ckpt_dir=str(models),
        output_dir=str(output),
        **options,
    )


def test_volumes_are_scored_and_a_picture_is_refused(
    trained: Path, tmp_path: Path, summary: Callable[[], str], mistake_of: MistakeOf
) -> None:
    images, out = tmp_path / "in", tmp_path / "out"
    first = write_volume(images / "patient 1" / "scan.nii.gz")
    write_volume(images / "patient 2" / "scan.nii.gz", 1)
    write_picture(images / "photo.png")
    mistake = mistake_of(
        "inferring",
        "inference.json",
        input=str(images),
        ckpt_dir=str(trained / "models"),
        output_dir=str(out),
    )
    assert "1 of 3 cases could not be used" in mistake
    (failed,) = table(out / "failures.csv")
    assert failed["case"] == "photo" and "photo.png: expected a volume" in failed["reason"]

    names = ["patient_1_scan", "patient_2_scan"]
    rows = table(out / "scores.csv")
    volumes = [row for row in rows if row["level"] == "volume"]
    assert [row["case"] for row in volumes] == names and len(rows) == 2 * 9
    assert {row["label"] for row in rows} == {""}
    assert not {"patient", "sharpness", "mean"} & set(rows[0])
    for row in volumes:
        assert row["flagged"] in {"0", "1"} and 0 <= float(row["percentile"]) <= 100
    found = Predictor(trained / "models")(Case("a", "a", (first,)))
    assert float(volumes[0]["score"]) == pytest.approx(found.case_score.score, rel=1e-5)
    written: Any = nib.load(out / "maps" / "patient_1_scan_anomaly.nii.gz")
    assert (np.asarray(written.dataobj) == found.grid_map.as_tensor().numpy()).all()
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-5)
    assert {path.name for path in (out / "panels").iterdir()} == {f"{n}.png" for n in names}
    assert len(list((out / "maps").iterdir())) == 4 and (out / "report.html").exists()

    told = summary()
    assert "Scored 2 images, the most anomalous first:" in told
    assert "Left out: 1, see failures.csv" in told
    lines = [line for line in told.splitlines() if " score " in line]
    order = sorted(volumes, key=lambda row: -float(row["score"]))
    assert [line.split()[0] for line in lines] == [row["case"] for row in order]
    for line, row in zip(lines, order, strict=True):
        assert f"score {float(row['score']):6.2f}" in line
        assert ("FLAGGED" in line) == (row["flagged"] == "1")
    notes = torch.load(trained / "models" / "model.pt", weights_only=True)["notes"]
    assert notes and all(f"Note: {note}" in told for note in notes)


def test_pictures_are_scored_and_a_volume_is_refused(
    write_model: WriteModel, tmp_path: Path, mistake_of: MistakeOf, summary: Callable[[], str]
) -> None:
    write_model(volumetric=False, modalities=["image"])
    images, out = tmp_path / "in", tmp_path / "out"
    for number in range(2):
        write_picture(images / f"xray{number}.png", number)
    write_volume(images / "volume.nii.gz")
    given = {"input": str(images), "ckpt_dir": str(tmp_path / "models"), "output_dir": str(out)}
    assert "1 of 3" in mistake_of("inferring", "inference.json", **given, save_panels=False)
    (failed,) = table(out / "failures.csv")
    assert "volume.nii.gz: expected a picture" in failed["reason"]
    rows = table(out / "scores.csv")
    assert [(row["case"], row["level"]) for row in rows] == [("xray0", "image"), ("xray1", "image")]
    assert {path.name for path in (out / "maps").iterdir()} == {
        f"xray{n}_{what}.png" for n in range(2) for what in ("anomaly", "mask")
    }
    assert not (out / "panels").exists()
    (images / "volume.nii.gz").unlink()
    infer(images, tmp_path / "models", out)
    assert not (out / "failures.csv").exists() and "Left out" not in summary()


def test_nothing_is_left_out_in_silence(
    write_model: WriteModel, tmp_path: Path, mistake_of: MistakeOf
) -> None:
    write_model()
    images, out = tmp_path / "in", tmp_path / "out"
    for number in range(2):
        write_volume(images / f"scan{number}.nii.gz", number)
    (images / "x.dcm").write_bytes(bytes(128) + b"DICM damaged")
    os.mkfifo(images / "pipe")
    (images / "loop").symlink_to(".")
    (images / "gone.nii").symlink_to("nowhere")
    given = {"input": str(images), "ckpt_dir": str(tmp_path / "models"), "output_dir": str(out)}
    assert "1 of 3 cases" in mistake_of("inferring", "inference.json", **given, save_panels=False)
    (failed,) = table(out / "failures.csv")
    assert "x.dcm: expected a DICOM image" in failed["reason"]
    scored = {row["case"] for row in table(out / "scores.csv")}
    assert scored == {"scan0", "scan1"}
    left = {row["file"]: row["reason"] for row in table(out / "left_out.csv")}
    assert left.keys() == {"pipe", "loop", "gone.nii"} and "named pipe" in left["pipe"]


def test_one_file_is_enough(write_model: WriteModel, tmp_path: Path) -> None:
    write_model(case_scores=[], case_weights=[])
    out = tmp_path / "out"
    infer(write_volume(tmp_path / "scan.nii.gz"), tmp_path / "models", out)
    *_, whole = table(out / "scores.csv")
    assert whole["case"] == "scan" and whole["flagged"] == whole["percentile"] == ""
    assert not (out / "metrics.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--input <path>"),
        ({"input": "nowhere.nii.gz"}, "nowhere.nii.gz does not exist"),
        ({"dataset_dir": "nowhere.nii.gz"}, "nowhere.nii.gz does not exist"),
        ({"input": "x", "limit": "3"}, "--limit: there is no such option"),
    ],
)
def test_mistakes_are_told(
    write_model: WriteModel,
    tmp_path: Path,
    mistake_of: MistakeOf,
    options: dict[str, str],
    said: str,
) -> None:
    write_model()
    given = {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path / "out")}
    assert said in mistake_of("inferring", "inference.json", **given, **options)


def test_dicom_objects_name_the_model_that_made_them(trained: Path, tmp_path: Path) -> None:
    series, out, models = write_series(tmp_path / "scan"), tmp_path / "out", trained / "models"
    infer(series, models, out, save_dicom=True, save_panels=False)
    mask, parametric = (
        pydicom.dcmread(next(out.rglob(f"*_{kind}.dcm"))) for kind in ("seg", "map")
    )
    made_by = mask.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    model = read_model(models)
    version = model_version(model)
    assert model["created"] in version and model["fingerprint"] in version
    assert made_by.AlgorithmVersion == version
    assert mask.SoftwareVersions == parametric.SoftwareVersions == version

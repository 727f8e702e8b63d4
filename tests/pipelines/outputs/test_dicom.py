"""The DICOM objects that a run over cases leaves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor

from pipelines.outputs.dicom import DicomMaps

pytest.importorskip("highdicom")


def scored(files: tuple[str, ...], anomaly_map: np.ndarray) -> SimpleNamespace:
    sample = SimpleNamespace(
        header={"dicom_files": files} if files else {},
        geometry=SimpleNamespace(slice_axis=2),
        case=SimpleNamespace(name="case"),
    )
    return SimpleNamespace(sample=sample, grid_map=MetaTensor(torch.from_numpy(anomaly_map)))


SCORER: Any = SimpleNamespace(calibration=SimpleNamespace(pixel_threshold=0.5))
MODEL = {"created": "2026-01-01T00:00:00+0000", "fingerprint": "0123abcd"}


def test_both_objects_come_from_one_reading_of_each_header(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, anomaly_map = made.volumes()
    files = tuple(map(str, made.series(tmp_path)))
    read, dcmread = [], pydicom.dcmread

    def counted(path: Path, **options: object) -> pydicom.Dataset:
        read.append(str(path))
        return dcmread(path, **options)

    results = tmp_path / "results"
    results.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(pydicom, "dcmread", counted)
        DicomMaps(SCORER, MODEL)(scored(files, anomaly_map), results)
    assert read == list(files)
    mask, written = (dcmread(results / f"case_{kind}.dcm") for kind in ("seg", "map"))
    for output, expected in ((mask, anomaly_map > 0.5), (written, anomaly_map)):
        lps = made.affine(made.OBLIQUE)
        np.testing.assert_array_equal(made.resampled(output, lps, expected.shape), expected)


def test_a_case_that_is_no_series_is_passed_over(made: SimpleNamespace, tmp_path: Path) -> None:
    DicomMaps(SCORER, MODEL)(scored((), made.volumes()[1]), tmp_path)
    assert not list(tmp_path.iterdir())

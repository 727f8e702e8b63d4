"""Anomaly maps as files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import aff2axcodes
from PIL import Image

from pipelines.data.cases import Case
from pipelines.data.slices import CaseLoader
from pipelines.outputs.maps import PNG_PER_SD, write_maps, write_volume
from pipelines.scoring.cases import ScoredCase
from transforms.slices import to_native

FakeScored = Callable[..., ScoredCase]


def rotation(degrees: float) -> np.ndarray:
    turn = np.radians(degrees)
    cosine, sine = np.cos(turn), np.sin(turn)
    around_x = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    around_z = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    return np.asarray(around_x @ around_z)


def affine_of(matrix: Any, spacing: tuple[float, ...] = (1.0, 1.5, 2.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(matrix) @ np.diag(spacing)
    affine[:3, 3] = (-90.5, 126.0, -72.25)
    return affine


AFFINES = {
    "RAS": affine_of(np.eye(3)),
    "LPS": affine_of(np.diag([-1, -1, 1])),
    "ASR": affine_of([[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "oblique": affine_of(rotation(20) @ np.diag([-1, 1, 1])),
}


def volume_file(
    path: Path, affine: np.ndarray, qform: int = 1, sform: int = 1, units: int = 2, **kwargs: Any
) -> Case:
    rng = np.random.default_rng(0)
    values = rng.uniform(50, 100, (20, 22, 24)).astype(np.float32)
    values[:3] = values[-3:] = values[:, :3] = values[:, -3:] = 0
    values[:, :, :3] = values[:, :, -3:] = 0
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, code=qform)
    image.set_sform(affine, code=sform)
    image.header["xyzt_units"] = units
    nib.save(image, path)
    return Case("a", "pa", (path,))


def written(case: Case, fake_scored: FakeScored, folder: Path) -> tuple[Any, Any, ScoredCase]:
    """The two files of a case, and the case; its map is that of random values on the canvas."""
    sample = CaseLoader(32)(case)
    canvas = 2 * torch.randn(len(sample.images), 32, 32)
    scored = fake_scored(sample, anomaly_map=to_native(canvas, sample.geometry).numpy())
    paths = write_maps(folder / "maps", scored, 1.0)
    assert [path.name for path in paths] == ["a_anomaly.nii.gz", "a_mask.nii.gz"]
    assert sorted((folder / "maps").iterdir()) == sorted(paths)
    return nib.load(paths[0]), nib.load(paths[1]), scored


@pytest.mark.parametrize("orientation", AFFINES)
def test_a_volume_s_maps_lie_on_its_grid(
    tmp_path: Path, fake_scored: FakeScored, orientation: str
) -> None:
    case = volume_file(tmp_path / "a.nii.gz", AFFINES[orientation], 1, 2, 2)
    source: Any = nib.load(case.images[0])
    anomaly, mask, scored = written(case, fake_scored, tmp_path)
    for image in (anomaly, mask):
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
        np.testing.assert_allclose(image.get_qform(), source.get_qform(), atol=1e-4)
        assert aff2axcodes(image.affine) == aff2axcodes(source.affine)
        for field in ("xyzt_units", "qform_code", "sform_code"):
            assert int(image.header[field]) == int(source.header[field]), field
        zooms = image.header.get_zooms()
        np.testing.assert_allclose(zooms, source.header.get_zooms(), atol=1e-5)
    values = np.asarray(anomaly.dataobj)
    assert anomaly.get_data_dtype() == np.float32 and mask.get_data_dtype() == np.uint8
    assert (values == scored.grid_map.as_tensor().numpy()).all() and values.min() < 0
    assert ((values > 1.0) == np.asarray(mask.dataobj)).all() and np.asarray(mask.dataobj).any()
    source_values = np.asarray(source.dataobj)
    assert (values[source_values == 0] == 0).all()
    assert (values[source_values > 0] != 0).mean() > 0.99


@pytest.mark.parametrize(
    ("qform", "sform", "units", "expected"),
    [
        (1, 1, 2, (1, 1, 2)),
        (0, 4, 1, (0, 4, 1)),
        (1, 0, 3, (1, 0, 3)),  # the quaternion alone, in micrometres
        (2, 3, 10, (2, 3, 2)),  # there is no time in a map
        (1, 1, 0, (1, 1, 0)),  # unknown units stay unknown
    ],
)
def test_codes_and_units_are_the_input_s(
    tmp_path: Path,
    fake_scored: FakeScored,
    qform: int,
    sform: int,
    units: int,
    expected: tuple[int, int, int],
) -> None:
    case = volume_file(tmp_path / "a.nii.gz", AFFINES["oblique"], qform, sform, units)
    source: Any = nib.load(case.images[0])
    anomaly, _, _ = written(case, fake_scored, tmp_path)
    fields = ("qform_code", "sform_code", "xyzt_units")
    assert tuple(int(anomaly.header[field]) for field in fields) == expected
    np.testing.assert_allclose(anomaly.affine, source.affine, atol=1e-4)


def test_without_any_code_the_affine_is_kept_nevertheless(tmp_path: Path) -> None:
    affine = AFFINES["oblique"]
    path = write_volume(
        tmp_path / "x.nii.gz",
        np.zeros((3, 4, 5), np.float32),
        affine,
        {"qform_code": 0, "sform_code": 0},
    )
    found: Any = nib.load(path)
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)
    assert int(found.header["sform_code"]) == 1


def test_a_shear_is_not_left_to_the_quaternion(tmp_path: Path) -> None:
    affine = AFFINES["RAS"].copy()
    affine[0, 1] = 0.3
    header = {"qform_code": 1, "sform_code": 0, "xyzt_units": 2}
    values = np.zeros((3, 4, 5), np.float32)
    found: Any = nib.load(write_volume(tmp_path / "x.nii.gz", values, affine, header))
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)


def test_other_formats_come_in_millimetres_and_scanner_coordinates(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    found: Any = nib.load(write_volume(tmp_path / "x.nii.gz", values, AFFINES["LPS"], {}))
    fields = ("qform_code", "sform_code", "xyzt_units")
    assert tuple(int(found.header[field]) for field in fields) == (1, 1, 2)
    assert (np.asarray(found.dataobj) == values).all()  # nothing is scaled to integers


def test_a_picture_s_map_has_ten_thousand_levels_per_deviation(
    tmp_path: Path, fake_scored: FakeScored
) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(1, 256, (6, 9), dtype=np.uint8)).save(tmp_path / "p.png")
    sample = CaseLoader(32)(Case("p", "p", (tmp_path / "p.png",)))
    values = np.zeros((1, 6, 9), np.float32)
    values[0, 0, :5] = [1.0, 0.00016, -3.0, 6.5, 9.0]
    values[0, 5, 8] = 2.5
    paths = write_maps(tmp_path / "maps", fake_scored(sample, anomaly_map=values), 2.5)
    assert [path.name for path in paths] == ["p_anomaly.png", "p_mask.png"]
    assert PNG_PER_SD == 10_000
    levels, mask = (np.asarray(Image.open(path)) for path in paths)
    assert levels.shape == mask.shape == (6, 9) and mask.dtype == np.uint8
    assert levels[0, :6].tolist() == [10_000, 2, 0, 65_000, 65_535, 0]
    assert levels[5, 8] == 25_000
    assert mask[0, :6].tolist() == [0, 0, 0, 255, 255, 0]
    assert mask[5, 8] == 0 and mask.sum() == 2 * 255  # at the threshold is not above it


def test_an_old_map_is_replaced_whole(
    tmp_path: Path, fake_scored: FakeScored, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = volume_file(tmp_path / "a.nii.gz", AFFINES["RAS"])
    anomaly, _, scored = written(case, fake_scored, tmp_path)
    before = (tmp_path / "maps" / "a_anomaly.nii.gz").read_bytes()

    def fail(image: Any, stream: Any) -> None:
        stream.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", fail)
    with pytest.raises(OSError, match="no space"):
        write_maps(tmp_path / "maps", replace(scored, anomaly_map=scored.anomaly_map + 1), 1.0)
    assert (tmp_path / "maps" / "a_anomaly.nii.gz").read_bytes() == before
    assert len(list((tmp_path / "maps").iterdir())) == 2

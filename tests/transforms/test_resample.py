import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor
from nibabel.processing import resample_from_to

from transforms.errors import InputError
from transforms.readers import read_case, read_image
from transforms.resample import resample_onto


def affine_of(spacing, origin, angle=0.0) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * spacing
    affine[:3, 3] = origin
    return affine


FIRST = affine_of((1.0, 1.5, 2.0), (-8, -9, -7))
OTHER = affine_of((-1.25, 1.0, 1.5), (14, -15, -12), 0.3)


def save(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)
    return path


@pytest.fixture
def files(tmp_path) -> list[Path]:
    rng = np.random.default_rng(0)
    first = save(tmp_path / "t1.nii", rng.normal(size=(14, 12, 9)), FIRST)
    return [first, save(tmp_path / "t2.nii", rng.normal(size=(26, 28, 16)), OTHER)]


def test_only_when_asked(files):
    with pytest.raises(InputError, match="t2.nii has the shape .*--resample true; in Python"):
        read_case(files)
    case = read_case(files, resample=True)
    assert case.shape == (2, 14, 12, 9)
    np.testing.assert_array_equal(case.affine.numpy(), FIRST)
    np.testing.assert_array_equal(case[0].numpy(), nib.load(files[0]).get_fdata(dtype=np.float32))


def test_it_equals_nibabel(files):
    """A second implementation, where both have all eight neighbours of a voxel."""
    found = read_case(files, resample=True)[1].numpy()
    target = (tuple(found.shape), FIRST)
    expected = resample_from_to(nib.load(files[1]), target, order=1).get_fdata()
    everywhere = nib.Nifti1Image(np.ones((26, 28, 16), np.float32), OTHER)
    inside = resample_from_to(everywhere, target, order=1).get_fdata() > 0.999
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)


def test_a_linear_field_is_kept_exactly(tmp_path, files):
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (26, 28, 16)), indexing="ij"))
    world = np.einsum("ij,jxyz->ixyz", OTHER[:3, :3], index) + OTHER[:3, 3, None, None, None]
    path = save(tmp_path / "ramp.nii", 100 + 2 * world[0] - world[1] + 3 * world[2], OTHER)
    found = read_case([files[0], path], resample=True)[1].numpy()
    x, y, z, _ = FIRST @ (7, 6, 5, 1)
    np.testing.assert_allclose(found[7, 6, 5], 100 + 2 * x - y + 3 * z, rtol=1e-5)


def test_files_on_the_same_grid_are_left_alone(tmp_path, files):
    same = save(tmp_path / "b.nii", nib.load(files[0]).get_fdata() * 3, FIRST)
    case = read_case([files[0], same], resample=True)
    np.testing.assert_array_equal(case.numpy(), read_case([files[0], same]).numpy())


def test_what_does_not_overlap_is_refused(tmp_path, files):
    far = save(tmp_path / "far.nii", np.random.rand(5, 5, 5), affine_of((1, 1, 1), (900, 0, 0)))
    with pytest.raises(InputError, match="far.nii: expected it to overlap"):
        read_case([files[0], far], resample=True)
    with pytest.raises(InputError, match="found a picture"):
        resample_onto(MetaTensor(np.ones((1, 4, 4))), read_image(files[0]))


def test_another_frame_of_reference_warns(tmp_path, save_volume):
    stored = np.random.default_rng(0).integers(0, 99, (4, 5, 3)).astype(np.int16)
    for number, name in enumerate("ab"):
        affine = np.diag([-1.0, -1, 2 + number, 1])
        frame = {"SeriesInstanceUID": f"1.{number}", "FrameOfReferenceUID": f"2.{number}"}
        save_volume(tmp_path / name, stored, affine, **frame)
    with pytest.warns(UserWarning, match="another frame of reference"):
        read_case([tmp_path / "a", tmp_path / "b"], resample=True)


@pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="no AEFLOW_DATA_DIR")
def test_a_brain_comes_back_from_another_grid(tmp_path):
    folder = sorted((Path(os.environ["AEFLOW_DATA_DIR"]) / "brats").iterdir())[0]
    first = nib.load(folder / f"{folder.name}_t2.nii.gz").slicer[60:180, 60:180, 50:100]
    nib.save(first, tmp_path / "first.nii")
    other = affine_of((1.1, 0.9, 1.2), first.affine[:3, 3], 0.0)
    other[:3, :3] = np.diag(np.sign(np.diag(first.affine)[:3])) @ other[:3, :3]
    nib.save(resample_from_to(first, ((110, 134, 42), other), order=1), tmp_path / "other.nii")
    case = read_case([tmp_path / "first.nii", tmp_path / "other.nii"], resample=True).numpy()
    assert (
        np.corrcoef(case[0, 2:-2, 2:-2, 2:-2].ravel(), case[1, 2:-2, 2:-2, 2:-2].ravel())[0, 1]
        > 0.98
    )

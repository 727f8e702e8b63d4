"""A file in, a map out on the very same grid: every orientation and format, every cutting axis."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transforms.errors import InputError
from transforms.readers import read_image
from transforms.slices import Slicer, on_grid, to_native

AXES = ("axial", "coronal", "sagittal")
SHAPE = (7, 6, 5)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def turned(degrees: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """A rotation about x, y and z."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        step = np.eye(3)
        i, j = [other for other in range(3) if other != axis]
        step[[i, i, j, j], [i, j, i, j]] = [
            np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        ]  # fmt: skip
        turn = step @ turn
    return turn


def affine_of(codes: str, spacing=(1.0, 1.0, 1.0), degrees=(0, 0, 0)) -> np.ndarray:
    affine = np.eye(4)
    for stored, code in enumerate(codes):
        world = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[:3, stored] = 0
        affine[world, stored] = 1 if code in "RAS" else -1
    affine[:3, :3] = turned(degrees) @ affine[:3, :3] * spacing
    affine[:3, 3] = (12.5, -30.25, 7.75)
    return affine


def coded(shape=SHAPE) -> np.ndarray:
    """A different value in every voxel."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.int16).reshape(shape)


def restore(maps, geometry, mode="bilinear"):
    return on_grid(to_native(maps, geometry, mode), geometry, torch.arange(geometry.count))


def assert_comes_back(path: Path, stored: np.ndarray, affine: np.ndarray) -> None:
    """Reading gives the stored voxels, and maps of all axes return to where they were cut."""
    image = read_image(path)
    np.testing.assert_array_equal(image.numpy()[0], stored)
    np.testing.assert_allclose(image.affine.numpy(), affine, atol=1e-4)
    for axis in AXES:
        height, width = Slicer(axis, 8).geometry(image).native_shape
        # On a canvas of their own size square pixels are not resampled; otherwise a large one
        # has a pixel of its own for every voxel.
        slices, geometry = Slicer(axis, (height, width))(image)
        mode = "bilinear"
        if geometry.fitted_shape != geometry.native_shape:
            mode = "nearest"
            slices, geometry = Slicer(axis, (height * 12, width * 12))(image, mode)
        back = restore(slices[:, 0], geometry, mode=mode)
        np.testing.assert_array_equal(back.numpy(), stored)
        np.testing.assert_allclose(back.affine.numpy(), affine, atol=1e-4)


NIFTI = {
    "RAS": affine_of("RAS"),
    "LPS": affine_of("LPS"),
    "oblique": affine_of("LPS", degrees=(20, -10, 15)),
    "anisotropic": affine_of("RAS", (0.5, 0.75, 4.0)),
    "flipped": affine_of("RAI"),
    "permuted": affine_of("SLP", (1.5, 1.0, 2.0)),
}


class TestNifti:
    @pytest.mark.parametrize("name", NIFTI)
    def test_orientations(self, tmp_path, name):
        stored = coded()
        nib.save(nib.Nifti1Image(stored, NIFTI[name]), tmp_path / "a.nii.gz")
        assert_comes_back(tmp_path / "a.nii.gz", stored, NIFTI[name])

    def test_four_dimensions(self, tmp_path):
        stored = coded((*SHAPE, 3))
        nib.save(nib.Nifti1Image(stored, NIFTI["oblique"]), tmp_path / "a.nii.gz")
        image = read_image(tmp_path / "a.nii.gz")
        for axis in AXES:
            shape = Slicer(axis, 8).geometry(image).native_shape
            slices, geometry = Slicer(axis, shape)(image)
            for channel in range(3):
                back = restore(slices[:, channel], geometry)
                np.testing.assert_array_equal(back.numpy(), stored[..., channel])
                np.testing.assert_allclose(back.affine.numpy(), NIFTI["oblique"], atol=1e-4)

    @settings(max_examples=25, deadline=None)
    @given(
        codes=st.sampled_from(
            ["".join(c) for p in itertools.permutations(("LR", "PA", "IS"))
             for c in itertools.product(*p)]
        ),
        degrees=st.tuples(*[st.integers(-25, 25)] * 3),
        spacing=st.tuples(*[st.sampled_from([0.4, 1.0, 3.0])] * 3),
    )  # fmt: skip
    def test_any_orientation(self, tmp_path_factory, codes, degrees, spacing):
        path = tmp_path_factory.mktemp("any") / "a.nii"
        affine = affine_of(codes, spacing, degrees)
        nib.save(nib.Nifti1Image(coded(), affine), path)
        assert_comes_back(path, coded(), affine)


# Right-handed, as every stack along its own normal is.
SCANS = {
    "axial": affine_of("LPS", (0.8, 0.8, 3.0)),
    "coronal": affine_of("LIP", (1.0, 1.0, 1.0)),
    "sagittal": affine_of("PIR", (0.9, 0.9, 2.0)),
    "oblique": affine_of("LPS", (0.5, 0.5, 2.5), (15, -20, 30)),
    "anisotropic": affine_of("LIP", (0.5, 0.9, 4.0), (5, 0, 0)),
}


def by_hand(folder: Path) -> dict[tuple[int, ...], float]:
    """The value at each place of the patient, in 0.02 mm in LPS, straight from the headers."""
    values = {}
    for path in folder.iterdir():
        item = pydicom.dcmread(path)
        across, down = np.array(item.ImageOrientationPatient, float).reshape(2, 3)
        origin, spacing = np.array(item.ImagePositionPatient, float), item.PixelSpacing
        for (row, column), value in np.ndenumerate(item.pixel_array):
            place = origin + column * float(spacing[1]) * across + row * float(spacing[0]) * down
            values[tuple(np.rint(place * 50).astype(int))] = float(value)
    return values


class TestDicom:
    @pytest.mark.parametrize("name", SCANS)
    def test_series(self, tmp_path, save_volume, name):
        affine = SCANS[name]
        assert np.linalg.det(affine[:3, :3]) > 0
        save_volume(tmp_path / "series", coded(), affine)
        assert_comes_back(tmp_path / "series", coded(), affine)
        image = read_image(tmp_path / "series")
        expected = by_hand(tmp_path / "series")
        found = {}
        for index, value in np.ndenumerate(image.numpy()[0]):
            place = LPS @ image.affine.numpy() @ (*index, 1)
            found[tuple(np.rint(place[:3] * 50).astype(int))] = float(value)
        assert found == expected and len(found) == np.prod(SHAPE)
        assert [int(Path(p).name[2:]) for p in image.meta["dicom_files"]] == list(
            np.random.default_rng(3).permutation(SHAPE[2])
        )

    @pytest.mark.parametrize("name", SCANS)
    def test_enhanced_object(self, tmp_path, save_frames, name):
        path = save_frames(tmp_path / "a.dcm", coded(), SCANS[name], order=(4, 2, 0, 1, 3))
        assert_comes_back(path, coded(), SCANS[name])

    @settings(max_examples=10, deadline=None)
    @given(degrees=st.tuples(*[st.integers(-90, 90)] * 3))
    def test_any_turn(self, tmp_path_factory, save_volume, degrees):
        folder = tmp_path_factory.mktemp("any")
        affine = affine_of("LPS", (0.7, 0.9, 2.0), degrees)
        save_volume(folder, coded((4, 3, 3)), affine)
        assert_comes_back(folder, coded((4, 3, 3)), affine)


class TestItk:
    @pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
    @pytest.mark.parametrize("name", ["axial", "sagittal", "oblique"])
    def test_orientations(self, tmp_path, suffix, name):
        lps = LPS @ SCANS[name]
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image = sitk.GetImageFromArray(np.ascontiguousarray(coded().T))
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
        assert_comes_back(tmp_path / f"a{suffix}", coded(), SCANS[name])


LEVELS = np.arange(1000).reshape(10, 20, 5) * 60


class TestLevels:
    """A thousand levels in, a thousand out."""

    @pytest.mark.parametrize("name", ["a.png", "a.tif"])
    def test_pictures(self, tmp_path, name):
        Image.fromarray(LEVELS.reshape(20, 50).astype(np.uint16)).save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name).numpy()[0], LEVELS.reshape(20, 50))

    @pytest.mark.parametrize("dtype", [np.uint16, np.int16])
    @pytest.mark.parametrize("name", ["a.dcm", "a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mhd"])
    def test_volumes(self, tmp_path, save_volume, name, dtype):
        levels = (LEVELS - (30000 if dtype is np.int16 else 0)).astype(dtype)
        path = tmp_path / name
        if name.endswith(".dcm"):
            path = save_volume(tmp_path / "series", levels, SCANS["axial"])
        elif ".nii" in name:
            nib.save(nib.Nifti1Image(levels, np.eye(4)), path)
        else:
            sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(levels.T)), str(path))
        found = read_image(path)
        assert len(found.unique()) == 1000
        np.testing.assert_array_equal(found.numpy()[0], levels)

    @pytest.mark.parametrize("dtype", [np.uint16, np.int16])
    @pytest.mark.parametrize("suffix", [".dcm", ".nrrd", ".mha"])
    def test_pictures_of_other_kinds(self, tmp_path, save_dicom, suffix, dtype):
        levels = (LEVELS - (30000 if dtype is np.int16 else 0)).astype(dtype).reshape(20, 50)
        path = tmp_path / f"a{suffix}"
        if suffix == ".dcm":
            save_dicom(path, levels)
        else:
            sitk.WriteImage(sitk.GetImageFromArray(levels), str(path))
        image = read_image(path)
        np.testing.assert_array_equal(image.numpy(), levels[None])
        assert image.meta["bit_depth"] == 16


def test_a_mirrored_stack_cannot_be_dicom(tmp_path, save_volume):
    """DICOM's slices have no handedness: a left-handed volume comes back with Z reversed."""
    affine = affine_of("RPS")
    save_volume(tmp_path, coded(), affine)
    image = read_image(tmp_path)
    np.testing.assert_array_equal(image.numpy()[0], coded()[:, :, ::-1])
    with pytest.raises(InputError, match="one slice"):
        (kept, *others) = sorted(tmp_path.iterdir())
        for path in others:
            path.unlink()
        read_image(tmp_path)

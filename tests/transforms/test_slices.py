import dataclasses
import itertools
import json
import os
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from transforms.errors import InputError
from transforms.intensity import ScaleBody
from transforms.readers import read_case, read_image
from transforms.slices import (
    Slicer,
    on_grid,
    select_slices,
    slice_labels,
    to_native,
)

NIBABEL_DATA = Path(nib.__file__).parent / "tests" / "data"
AXES = ("axial", "coronal", "sagittal")
ORIENTATIONS = [
    "".join(codes)
    for pairs in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*pairs)
]


def affine_of(codes: str, spacing=(1.0, 1.0, 1.0), tilt: float = 0.0) -> np.ndarray:
    """An affine whose stored axes point to ``codes``, turned by ``tilt`` radians about x, z."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for stored, code in enumerate(codes):
        world = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[world, stored] = spacing[stored] * (1 if code in "RAS" else -1)
    c, s = np.cos(tilt), np.sin(tilt)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array(
        [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    )
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (12.5, -30.25, 7.75)
    return affine


def coded(shape: tuple[int, ...], affine: np.ndarray) -> MetaTensor:
    """A volume (C, X, Y, Z) in which every voxel has a value of its own."""
    values = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)
    return MetaTensor(values, affine=torch.from_numpy(affine))


def smooth(shape: tuple[int, int, int], affine: np.ndarray) -> MetaTensor:
    x, y, z = torch.meshgrid(*(torch.linspace(0, 2, n) for n in shape), indexing="ij")
    values = 2 + torch.sin(2 * x + y) * torch.cos(1.5 * y - z)
    return MetaTensor(values[None], affine=torch.from_numpy(affine))


def restore(maps, geometry, mode="bilinear") -> MetaTensor:
    """A map for every slice, back on the grid of the image."""
    return on_grid(to_native(maps, geometry, mode), geometry, torch.arange(geometry.count))


def fill_canvas(volume: MetaTensor, axis: str) -> Slicer:
    """A slicer whose canvas is a little larger than the native slices, which then fit exactly."""
    height, width = Slicer(axis, 8).geometry(volume).native_shape
    return Slicer(axis, (height + 5, width))


class TestAnatomy:
    # For a marker at the patient's left, anterior and superior: where it shows in its slice, and
    # the directions between which that slice is numbered.
    MARKER = {"axial": (0, -1, "IS"), "coronal": (0, -1, "PA"), "sagittal": (0, 0, "LR")}

    @pytest.mark.parametrize("codes", ORIENTATIONS)
    @pytest.mark.parametrize("axis", AXES)
    def test_marker_appears_where_radiologists_expect_it(self, codes, axis):
        shape = (5, 6, 7)
        voxel = [n - 1 if code in "LAS" else 0 for n, code in zip(shape, codes, strict=True)]
        values = torch.zeros(1, *shape)
        values[(0, *voxel)] = 1
        volume = MetaTensor(values, affine=torch.from_numpy(affine_of(codes)))
        native = Slicer(axis, 7).native(volume)
        row, column, directions = self.MARKER[axis]
        through = next(i for i, code in enumerate(codes) if code in directions)
        assert len(native) == shape[through]
        assert native[voxel[through], 0, row, column] == 1
        assert native.sum() == 1

    @pytest.mark.parametrize(
        ("axis", "row", "column"),
        [("axial", "P", "L"), ("coronal", "I", "L"), ("sagittal", "I", "P")],
    )
    @pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
    def test_world_directions_of_rows_and_columns(self, axis, row, column, codes):
        """Independent of the flips: coordinates in mm, sliced like images, grow as documented."""
        affine = affine_of(codes, (1, 2, 3), tilt=0.2)
        index = np.stack(np.meshgrid(*(np.arange(n) for n in (4, 5, 6)), indexing="ij"))
        world = np.einsum("ij,jxyz->ixyz", affine[:3, :3], index) + affine[:3, 3, None, None, None]
        volume = MetaTensor(torch.from_numpy(world), affine=torch.from_numpy(affine))
        x, y, z = Slicer(axis, 8).native(volume).unbind(1)
        coordinate = {"P": -y, "L": -x, "I": -z}
        assert (coordinate[row].diff(dim=1) > 0).all()
        assert (coordinate[column].diff(dim=2) > 0).all()

    def test_brats_storage_gives_slice_k(self):
        volume = coded((2, 6, 5, 4), affine_of("LPS"))
        native = Slicer("axial", 6).native(volume)
        for k in range(4):
            assert torch.equal(native[k], volume.as_tensor()[..., k].transpose(1, 2))


class TestRoundTrip:
    @pytest.mark.parametrize("codes", ORIENTATIONS[::3])
    @pytest.mark.parametrize("axis", AXES)
    @pytest.mark.parametrize("tilt", [0.0, 0.3])
    def test_index_coded_volume_comes_back_identical(self, codes, axis, tilt):
        volume = coded((1, 7, 10, 5), affine_of(codes, (1, 1, 1), tilt))
        images, geometry = fill_canvas(volume, axis)(volume)
        assert geometry.fitted_shape == geometry.native_shape
        back = restore(images[:, 0], geometry)
        assert torch.equal(back.as_tensor(), volume[0].as_tensor())
        assert back.dtype == torch.float32
        np.testing.assert_allclose(back.affine.numpy(), volume.affine.numpy(), atol=1e-4)
        assert back.affine.dtype == torch.float64

    @settings(max_examples=40, deadline=None)
    @given(
        shape=st.tuples(*[st.integers(1, 9)] * 3),
        codes=st.sampled_from(ORIENTATIONS),
        axis=st.sampled_from(AXES),
        tilt=st.floats(-0.5, 0.5),
    )
    def test_any_shape_and_orientation(self, shape, codes, axis, tilt):
        volume = coded((2, *shape), affine_of(codes, (1, 1, 1), tilt))
        images, geometry = fill_canvas(volume, axis)(volume)
        for channel in range(2):
            back = restore(images[:, channel], geometry)
            assert torch.equal(back.as_tensor(), volume[channel].as_tensor())

    @pytest.mark.parametrize("axis", AXES)
    @pytest.mark.parametrize("spacing", [(1, 1, 1), (0.8, 1.1, 2.5), (3.0, 1.0, 1.0)])
    @pytest.mark.parametrize("size", [64, 100, (60, 90)])
    def test_smooth_map_survives_resampling(self, axis, spacing, size):
        volume = smooth((37, 50, 41), affine_of("LPS", spacing, 0.1))
        images, geometry = Slicer(axis, size)(volume)
        assert images.shape[1:] == (1, *geometry.canvas_shape)
        back = restore(images[:, 0], geometry)
        assert back.shape == (37, 50, 41)
        error = (back - volume[0]).as_tensor().abs()
        assert float(error.mean() / volume.as_tensor().mean()) < 0.02

    @pytest.mark.parametrize(
        "name",
        ["anatomical.nii", "example4d.nii.gz", "standard.nii.gz", "reoriented_anat_moved.nii"],
    )
    @pytest.mark.parametrize("axis", AXES)
    def test_sample_files(self, name, axis):
        volume = read_image(NIBABEL_DATA / name)
        slicer = Slicer(axis, 32)
        images, geometry = slicer(volume)
        assert images.shape == (geometry.count, len(volume), 32, 32)
        back = restore(images[:, 0], geometry)
        assert back.shape == volume.shape[1:]
        np.testing.assert_allclose(
            back.affine.numpy(), nib.load(NIBABEL_DATA / name).affine, atol=1e-4
        )
        native = slicer.native(volume)
        assert torch.equal(geometry.from_stack(native[:, 0]), volume[0].as_tensor())

    def test_some_slices(self):
        volume = coded((1, 4, 4, 6), affine_of("RAS"))
        images, geometry = Slicer("axial", 4)(volume, indices=[4, 1])
        back = on_grid(to_native(images[:, 0], geometry), geometry, torch.tensor([4, 1]))
        assert torch.equal(back[..., [1, 4]].as_tensor(), volume[0][..., [1, 4]].as_tensor())
        assert (back[..., [0, 2, 3, 5]] == 0).all()
        none = torch.tensor([], dtype=torch.int64)
        empty = on_grid(to_native(images[:0, 0], geometry), geometry, none)
        assert empty.shape == (4, 4, 6)
        assert (empty == 0).all()

    def test_masks_keep_their_labels(self):
        values = torch.randint(0, 2, (1, 20, 24, 3), generator=torch.Generator().manual_seed(0))
        affine = torch.from_numpy(affine_of("LPS", (1, 2, 1)))
        mask = MetaTensor(values.to(torch.uint8), affine=affine)
        images, geometry = Slicer("axial", 96)(mask, mode="nearest")
        assert images.dtype == torch.uint8
        assert set(images.unique().tolist()) == {0, 1}
        back = restore(images[:, 0], geometry, mode="nearest")
        assert torch.equal(back.as_tensor(), values[0].float())

    def test_map_in_low_precision(self):
        volume = coded((1, 4, 4, 4), affine_of("RAS"))
        images, geometry = Slicer("axial", 4)(volume)
        assert restore(images[:, 0].bfloat16(), geometry).dtype == torch.float32


class TestFitting:
    def test_pixels_become_square_and_the_slice_is_centred(self):
        affine = torch.from_numpy(affine_of("LPS", (1, 4, 1)))
        volume = MetaTensor(torch.ones(1, 40, 20, 2), affine=affine)
        images, geometry = Slicer("axial", 60)(volume)  # 80 mm high, 40 mm wide
        assert geometry.spacing == (4.0, 1.0)
        assert geometry.native_shape == (20, 40)
        assert geometry.fitted_shape == (60, 30)
        assert geometry.offset == (0, 15)
        assert (images[..., 15:45] == 1).all()
        assert images[..., :15].sum() == images[..., 45:].sum() == 0

    def test_shrinking_is_antialiased(self):
        stripes = torch.zeros(1, 64, 64)
        stripes[..., ::2] = 1
        images, _ = Slicer(image_size=16)(stripes)
        assert float((images[..., 2:-2] - 0.5).abs().max()) < 0.1

    def test_range_is_kept_and_background_stays_zero(self):
        values = torch.zeros(1, 31, 33, 2)
        values[:, 10:20, 10:20] = torch.rand(10, 10, 2, generator=torch.Generator().manual_seed(0))
        volume = MetaTensor(values, affine=torch.eye(4))
        images, _ = Slicer("axial", 80)(volume)
        assert float(images.min()) == 0
        assert float(images.max()) <= float(values.max())
        assert (images == 0).float().mean() > 0.8

    def test_native_and_back_to_native(self):
        volume = smooth((30, 34, 6), affine_of("LPS", (1, 1, 3)))
        slicer = Slicer("axial", 68)
        images, geometry = slicer(volume)
        native = slicer.native(volume)
        assert native.shape == (6, 1, 34, 30)
        back = to_native(images[:, 0], geometry)
        assert back.shape == (6, 34, 30)
        error = (back - native[:, 0]).abs()
        assert float(error.mean()) < 0.02
        assert float(error[:, 2:-2, 2:-2].max()) < 0.02
        assert to_native(images[2:4, 0], geometry).shape == (2, 34, 30)

    @pytest.mark.parametrize("axis", AXES)
    def test_extremely_thin_volume(self, axis):
        images, geometry = Slicer(axis, 16)(coded((1, 200, 1, 1), affine_of("RAS")))
        assert restore(images[:, 0], geometry).shape == (200, 1, 1)


class TestPictures:
    @pytest.mark.parametrize("shape", [(1, 9, 12), (3, 12, 7)])
    def test_a_picture_is_a_stack_of_one(self, shape):
        picture = torch.rand(shape)
        slicer = Slicer(image_size=12)
        images, geometry = slicer(picture)
        assert images.shape == (1, shape[0], 12, 12)
        assert geometry.axis is None
        assert geometry.count == 1
        assert torch.equal(slicer.native(picture)[0], picture)
        assert torch.equal(restore(images[:, 0], geometry).as_tensor(), picture[0])

    def test_resized_picture_comes_back_to_its_size(self):
        picture = smooth((50, 37, 1), np.eye(4))[..., 0].as_tensor()
        images, geometry = Slicer(image_size=(64, 96))(picture)
        back = restore(images[:, 0], geometry)
        assert back.shape == (50, 37)
        assert float((back - picture[0]).abs().mean() / picture.mean()) < 0.02


class TestPlainness:
    def test_inputs_are_not_changed(self):
        for codes in ("RAS", "LPS", "SPL"):
            volume = coded((1, 4, 4, 4), affine_of(codes))
            before, affine = volume.as_tensor().clone(), volume.affine.clone()
            slicer = Slicer("axial", 4)
            images, geometry = slicer(volume)
            maps = images[:, 0].clone()
            kept = maps.clone()
            restore(maps, geometry).add_(1)
            to_native(maps, geometry)
            slicer.native(volume).add_(1)
            images.add_(1)
            assert torch.equal(volume.as_tensor(), before)
            assert torch.equal(volume.affine, affine)
            assert torch.equal(maps, kept)
        picture = torch.rand(1, 4, 4)
        before = picture.clone()
        Slicer(image_size=4)(picture).images.add_(1)
        Slicer(image_size=4).native(picture).add_(1)
        assert torch.equal(picture, before)

    def test_geometry_is_plain(self):
        geometry = Slicer("coronal", 32).geometry(coded((1, 4, 5, 6), affine_of("LPS")))
        assert pickle.loads(pickle.dumps(geometry)) == geometry
        json.dumps(dataclasses.asdict(geometry))
        with pytest.raises(dataclasses.FrozenInstanceError):
            geometry.axis = "axial"

    def test_mistakes_are_named(self):
        with pytest.raises(InputError, match="axis: expected one of axial"):
            Slicer("transversal")
        for size in (0, (4, 0), (4, 4, 4)):
            with pytest.raises(InputError, match="image_size"):
                Slicer("axial", size)
        with pytest.raises(InputError, match="MetaTensor .* with an affine"):
            Slicer()(torch.rand(1, 4, 4, 4))
        with pytest.raises(InputError, match=r"shape \(4, 4\)"):
            Slicer()(torch.rand(4, 4))
        volume = coded((1, 4, 4, 4), affine_of("RAS"))
        images, geometry = Slicer("axial", 8)(volume)
        with pytest.raises(ValueError, match="mode"):
            Slicer()(volume, mode="cubic")
        with pytest.raises(ValueError, match=r"expected \(N, 8, 8\)"):
            restore(images[:, 0, :4], geometry)
        with pytest.raises(ValueError, match="slices from 0 to 3"):
            Slicer()(volume, indices=[0, 1, 2, 4])


class TestSelection:
    def test_share_of_the_body(self):
        body = torch.zeros(5, 10, 10, dtype=torch.bool)
        body[1, :1] = True  # 10 %
        body[2, 0, :9] = True  # 9 %
        body[3:] = True
        assert select_slices(body).tolist() == [1, 3, 4]
        assert select_slices(body, min_body_fraction=0.5).tolist() == [3, 4]
        assert select_slices(body, min_body_fraction=0).tolist() == [0, 1, 2, 3, 4]
        assert select_slices(body, slice_range=(1, 3)).tolist() == [1, 3]
        assert select_slices(body, slice_range=(3, 99)).tolist() == [3, 4]
        assert select_slices(body, slice_range=(0, 0)).tolist() == []

    def test_wrong_options(self):
        body = torch.ones(3, 4, 4, dtype=torch.bool)
        with pytest.raises(InputError, match="min_body_fraction"):
            select_slices(body, min_body_fraction=10)
        for slice_range in ((2, 1), (-1, 2)):
            with pytest.raises(InputError, match="slice_range"):
                select_slices(body, slice_range=slice_range)

    def test_labels(self):
        mask = torch.zeros(8, 10, 10, dtype=torch.uint8)
        mask[4, :2] = 3  # 20 pixels
        mask[5, 0] = 1  # 10 pixels
        assert slice_labels(mask).tolist() == [0, 0, 0, 0, 1, -1, 0, 0]
        assert slice_labels(mask).dtype == torch.int8
        assert slice_labels(mask, min_lesion_pixels=21).tolist() == [0, 0, 0, 0, -1, -1, 0, 0]
        assert slice_labels(mask, min_lesion_pixels=1).tolist() == [0, 0, 0, 0, 1, 1, 0, 0]

    def test_margin(self):
        mask = torch.zeros(8, 5, 5)
        mask[3] = 1
        assert slice_labels(mask, normal_margin=1).tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
        assert slice_labels(mask, normal_margin=2).tolist() == [0, 0, -1, 1, -1, 0, 0, 0]
        assert slice_labels(mask, normal_margin=3).tolist() == [0, -1, -1, 1, -1, -1, 0, 0]
        assert slice_labels(mask, normal_margin=99).tolist() == [-1, -1, -1, 1, -1, -1, -1, -1]
        assert slice_labels(mask * 0, normal_margin=99).tolist() == [0] * 8

    def test_wrong_label_options(self):
        for options in ({"min_lesion_pixels": 0}, {"normal_margin": -1}):
            with pytest.raises(InputError, match=next(iter(options))):
                slice_labels(torch.zeros(2, 3, 3), **options)


@pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="no AEFLOW_DATA_DIR")
def test_brats_volume_there_and_back():
    folder = sorted((Path(os.environ["AEFLOW_DATA_DIR"]) / "brats").iterdir())[0]
    volume = ScaleBody()(read_case((folder / f"{folder.name}_t2.nii.gz",)))
    images, geometry = Slicer("axial", 240)(volume)
    assert torch.equal(images[80, 0], volume[0, ..., 80].as_tensor().T)
    back = restore(images[:, 0], geometry)
    assert torch.equal(back.as_tensor(), volume[0].as_tensor())
    chosen = select_slices(images[:, 0] > 0, slice_range=(25, 130))
    assert 60 < len(chosen) <= 106

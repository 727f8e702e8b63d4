"""Where pixels lie in the body."""

from itertools import permutations, product
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor

from transforms.geometry import SliceAxis
from transforms.place import FARTHEST, body_place
from transforms.slices import Slicer

CENTRE = np.array([-4.0, 7.0, 3.0])
RADII = np.array([12.0, 17.0, 9.0])
ORIENTATIONS = [
    np.array(np.eye(3)[list(order)] * np.array(signs)[:, None])
    for order in permutations(range(3))
    for signs in product((1.0, -1.0), repeat=3)
]
STRAIGHT = ORIENTATIONS[0]


def scan(directions: np.ndarray, spacing: Any) -> MetaTensor:
    """A skewed body in the grid of these axes: in the body, and the position of each voxel.

    The channels are the body, x, y and z in mm to the right, the front and the head, and 1.
    """
    scale = np.abs(directions) @ np.array(spacing)  # mm along each stored axis
    linear = directions.T * scale
    extent = np.abs(directions) @ np.array([44.0, 52.0, 36.0])
    shape = np.ceil(extent / scale).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = CENTRE - linear @ (shape - 1) / 2
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    world = np.einsum("ij,jxyz->ixyz", linear, index) + affine[:3, 3, None, None, None]
    away = (world - CENTRE[:, None, None, None]) / RADII[:, None, None, None]
    inside = (np.square(away).sum(axis=0) < 1) & (away.sum(axis=0) < 0.6)
    told = np.stack([inside, *world, np.ones(shape)]).astype(np.float32)
    return MetaTensor(torch.from_numpy(told), affine=torch.from_numpy(affine))


def placed(image: MetaTensor, axis: SliceAxis, size: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The places of all pixels of the canvas, ``(N, 3, H, W)``, and what `scan` told of them."""
    slicer = Slicer(axis, size)
    canvas = slicer(image)
    place = body_place(slicer.native(image)[:, 0] > 0, canvas.geometry)
    height, width = canvas.images.shape[-2:]
    assert place.dtype == torch.float32
    assert place.shape == (len(canvas.images), 1 + height + width)
    slices, rows, columns = place.split([1, height, width], dim=1)
    grids = [slices[:, :, None], rows[:, :, None], columns[:, None, :]]
    return torch.stack([one.expand(-1, height, width) for one in grids], dim=1), canvas.images


AXES = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}
"""The anatomical axes, x, y or z, of slices, rows and columns."""


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.sampled_from(get_args(SliceAxis)),
    st.tuples(*[st.sampled_from([0.8, 1.0, 1.7, 2.5])] * 3),
    st.sampled_from([32, 48, (40, 64), (96, 56)]),
)
def test_a_place_is_the_same_in_any_grid(
    directions: np.ndarray, axis: SliceAxis, spacing: Any, size: Any
) -> None:
    image = scan(directions, spacing)
    body = image[0].numpy() > 0
    place, seen = placed(image, axis, size)
    whole = seen[:, 4] > 0.999  # neither padding nor the blurred border
    whole[..., 1:-1, 1:-1] &= whole[..., :-2, :-2] & whole[..., 2:, 2:]
    for position, anatomical in enumerate(AXES[axis]):
        inside = image[1 + anatomical].numpy()[body]
        away = (seen[:, 1 + anatomical] - float(inside.mean())) / float(inside.std()) / FARTHEST
        expected = ((away.abs() if anatomical == 0 else away) + 1) / 2
        torch.testing.assert_close(
            place[:, position][whole], expected.clamp(0, 1)[whole], atol=0.02, rtol=0
        )


@pytest.mark.parametrize("axis", get_args(SliceAxis))
def test_an_oblique_volume_is_placed_along_its_own_axes(axis: SliceAxis) -> None:
    image = scan(STRAIGHT, (1.0, 1.5, 2.0))
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, -s, 0, 5], [s, c, 0, -9], [0, 0, 1, 2], [0, 0, 0, 1]])
    oblique = MetaTensor(image.as_tensor(), affine=torch.from_numpy(turn @ image.affine.numpy()))
    assert torch.equal(placed(oblique, axis, 48)[0], placed(image, axis, 48)[0])


@pytest.mark.parametrize("axis", get_args(SliceAxis))
def test_left_and_right_are_one_and_nothing_else_is(axis: SliceAxis) -> None:
    body = torch.zeros(5, 25, 25, 25)
    body[0, 4:-4, 4:-4, 4:-4] = 1
    for position, anatomical in enumerate(AXES[axis]):
        place = placed(MetaTensor(body, affine=torch.eye(4)), axis, (32, 32))[0][:, position]
        mirrored = place.flip(0 if position == 0 else position)
        if anatomical == 0:
            torch.testing.assert_close(place, mirrored)
            assert place.min() >= 0.5 and place.min() < 0.52
        else:
            torch.testing.assert_close(place, 1 - mirrored, atol=1e-5, rtol=0)
            assert place.min() < 0.1 and place.max() > 0.9


def test_far_from_the_body_places_end_and_no_body_has_some() -> None:
    body = torch.zeros(5, 60, 60, 4)
    body[0, 10:14, 10:14] = 1
    for image in (body, torch.zeros_like(body)):
        place, _ = placed(MetaTensor(image, affine=torch.eye(4)), "axial", 60)
        assert torch.isfinite(place).all() and place.min() >= 0 and place.max() == 1

"""Volumes to stacks of slices, and anomaly maps back onto the grid of the input.

A picture is a stack of one slice, so that everything behind this file sees slices only. How
slices are oriented and numbered is told in ``transforms.geometry``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import Transform
from monai.utils.misc import ensure_tuple_rep
from torch.nn import functional

from transforms.errors import InputError
from transforms.geometry import SliceAxis, SliceGeometry, slice_geometry

ResizeMode = Literal["bilinear", "nearest"]


class SliceStack(NamedTuple):
    """Slices of one image.

    Attributes:
        images: (N, C, H, W), in the order in which the volume stores them.
        geometry: the way back to the image.
    """

    images: torch.Tensor
    geometry: SliceGeometry


class Slicer(Transform):
    """Cut a volume into upright slices of one size, or bring a picture to that size.

    Args:
        axis: the anatomical axis along which slices are stacked; without meaning for pictures.
        image_size: side, or (H, W), of the slices in pixels. A slice keeps its proportions in mm:
            its pixels are made square, its longer side fitted, the rest filled with 0 on both
            sides. Nothing is resampled when the native pixels already are square and fit.

    Raises:
        InputError: for an unknown axis or a size that is not positive.
    """

    def __init__(self, axis: SliceAxis = "axial", image_size: int | Sequence[int] = 256) -> None:
        """Keep the options, once checked; see the class."""
        if axis not in get_args(SliceAxis):
            raise InputError(
                f"axis: expected one of {', '.join(get_args(SliceAxis))}, found {axis!r}."
            )
        size = ensure_tuple_rep(image_size, 2) if isinstance(image_size, int) else image_size
        if len(size) != 2 or any(side < 1 for side in size):
            raise InputError(
                f"image_size: expected a positive size or (height, width), found {image_size}."
            )
        self.axis: SliceAxis = axis
        self.image_size = (int(size[0]), int(size[1]))

    def geometry(self, image: torch.Tensor) -> SliceGeometry:
        """Where the slices of an image (C, X, Y, Z) or (C, H, W) lie; see ``SliceGeometry``."""
        return slice_geometry(image, self.axis, self.image_size)

    def native(self, image: torch.Tensor) -> torch.Tensor:
        """Slices as the file holds them: oriented and numbered alike, but not resized.

        Args:
            image: MetaTensor (C, X, Y, Z), or a picture (C, H, W).

        Returns:
            (N, C, h, w) of the image's dtype; N = 1 for a picture.
        """
        return self.geometry(image).to_stack(_plain(image))

    def __call__(
        self,
        image: torch.Tensor,
        mode: ResizeMode = "bilinear",
        indices: Sequence[int] | torch.Tensor | None = None,
    ) -> SliceStack:
        """Cut and resize.

        Args:
            image: MetaTensor (C, X, Y, Z), or a picture (C, H, W).
            mode: ``bilinear``, antialiased when shrinking, for images; ``nearest`` for masks.
            indices: the slices to return; None returns all.

        Returns:
            The slices (N, C, H, W): float32 for ``bilinear`` (within the range of the input and
            0), the image's dtype for ``nearest``; and the geometry of the whole image.

        Raises:
            InputError: if the image has no affine or another number of dimensions.
            ValueError: for an unknown mode or an index out of range.
        """
        geometry = self.geometry(image)
        chosen = None if indices is None else _checked_indices(indices, geometry)
        stack = geometry.to_stack(_plain(image), chosen)
        return SliceStack(to_canvas(stack, geometry, mode), geometry)


def to_canvas(
    stack: torch.Tensor, geometry: SliceGeometry, mode: ResizeMode = "bilinear"
) -> torch.Tensor:
    """Resize slices and surround them with zeros.

    Args:
        stack: (N, C, h, w) at native resolution.
        geometry: of the image that the slices were cut from.
        mode: ``bilinear`` for images, ``nearest`` for masks.

    Returns:
        (N, C, H, W): float32 for ``bilinear``, the stack's dtype for ``nearest``; the stack itself
        where it has that size.
    """
    fitted = _resize(stack, geometry.fitted_shape, mode)
    top, left = geometry.offset
    bottom = geometry.canvas_shape[0] - geometry.fitted_shape[0] - top
    right = geometry.canvas_shape[1] - geometry.fitted_shape[1] - left
    around = (left, right, top, bottom)
    return functional.pad(fitted, around) if any(around) else fitted


def to_native(
    maps: torch.Tensor, geometry: SliceGeometry, mode: ResizeMode = "bilinear"
) -> torch.Tensor:
    """Bring maps from the canvas back to the native resolution of the slices.

    Args:
        maps: (N, H, W) on the canvas; any selection of slices.
        geometry: of the image that the slices were cut from.
        mode: ``bilinear`` for scores, ``nearest`` for labels.

    Returns:
        float32 (N, h, w); the values themselves where nothing was resampled.

    Raises:
        ValueError: if the maps do not have the size of the canvas.
    """
    if maps.ndim != 3 or tuple(maps.shape[1:]) != geometry.canvas_shape:
        raise ValueError(
            f"maps: expected (N, {geometry.canvas_shape[0]}, {geometry.canvas_shape[1]}), found "
            f"{tuple(maps.shape)}. Pass one map per slice, of the size that Slicer returned."
        )
    (top, left), (height, width) = geometry.offset, geometry.fitted_shape
    cropped = _plain(maps)[:, None, top : top + height, left : left + width].to(torch.float32)
    return _resize(cropped, geometry.native_shape, mode)[:, 0]


def on_grid(native: torch.Tensor, geometry: SliceGeometry, indices: torch.Tensor) -> MetaTensor:
    """Put maps at native resolution back onto the grid of the image.

    Args:
        native: (K, h, w), as ``to_native`` gives them.
        geometry: of the image that the slices were cut from.
        indices: int64 (K,), the slice of each map.

    Returns:
        (X, Y, Z) with the affine of the volume, or (H, W) for a picture, of the maps' dtype; 0 in
        slices without a map.
    """
    stack = native.new_zeros((geometry.count, *geometry.native_shape))
    stack[indices] = native
    affine = torch.tensor(geometry.affine, dtype=torch.float64)
    return MetaTensor(geometry.from_stack(stack), affine=affine)


def select_slices(
    body: torch.Tensor,
    min_body_fraction: float = 0.1,
    slice_range: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Choose the slices that show enough of the body.

    Args:
        body: bool (N, h, w), where the body is.
        min_body_fraction: smallest share of a slice's area that the body must fill, in [0, 1].
        slice_range: first and last slice to consider, both included; None considers all.

    Returns:
        int64 (K,), increasing indices; K may be 0.

    Raises:
        InputError: if an option is out of range.
    """
    if not 0 <= min_body_fraction <= 1:
        raise InputError(
            f"min_body_fraction: expected a share from 0 to 1, found {min_body_fraction}."
        )
    first, last = (0, len(body) - 1) if slice_range is None else slice_range
    if not 0 <= first <= last:
        raise InputError(
            f"slice_range: expected (first, last) with 0 <= first <= last, found {slice_range}."
        )
    enough = _counts(body).double() / body[0].numel() >= min_body_fraction
    enough[:first] = False
    enough[last + 1 :] = False
    return enough.nonzero().flatten()


def slice_labels(
    mask: torch.Tensor, min_lesion_pixels: int = 20, normal_margin: int = 0
) -> torch.Tensor:
    """Label slices by the lesion that they show.

    Args:
        mask: (N, h, w) at native resolution, non-zero where a lesion is.
        min_lesion_pixels: the fewest lesion pixels of an anomalous slice.
        normal_margin: the fewest slices between a normal slice and the nearest one with any
            lesion pixel, counted as difference of their indices.

    Returns:
        int8 (N,): 1 anomalous, 0 normal (no lesion pixel, and outside the margin), -1 neither,
        to be left out.

    Raises:
        InputError: if an option is out of range.
    """
    if min_lesion_pixels < 1 or normal_margin < 0:
        raise InputError(
            "expected min_lesion_pixels >= 1 and normal_margin >= 0, found "
            f"{min_lesion_pixels} and {normal_margin}."
        )
    pixels = _counts(_plain(mask))
    near = pixels > 0
    for distance in range(1, min(normal_margin, len(near))):
        near[distance:] |= pixels[:-distance] > 0
        near[:-distance] |= pixels[distance:] > 0
    labels = torch.where(near, -1, 0).to(torch.int8)
    labels[pixels >= min_lesion_pixels] = 1
    return labels


def _plain(image: torch.Tensor) -> torch.Tensor:
    return image.as_tensor() if isinstance(image, MetaTensor) else image


def _counts(masks: torch.Tensor) -> torch.Tensor:
    """Pixels of each mask (N, h, w) that are not 0, int64 (N,); torch sums bool slowly."""
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int64)


def _resize(stack: torch.Tensor, shape: tuple[int, int], mode: ResizeMode) -> torch.Tensor:
    """Resize (N, C, h, w); ``bilinear`` returns float32, ``nearest`` the dtype that came."""
    if mode == "nearest":
        if tuple(stack.shape[-2:]) == shape:
            return stack
        resized = functional.interpolate(stack.to(torch.float32), shape, mode="nearest-exact")
        return resized.to(stack.dtype)
    if mode == "bilinear":
        if tuple(stack.shape[-2:]) == shape:
            return stack.to(torch.float32)
        return functional.interpolate(
            stack.to(torch.float32), shape, mode="bilinear", align_corners=False, antialias=True
        )
    raise ValueError(f"mode: expected 'bilinear' or 'nearest', found {mode!r}.")


def _checked_indices(
    indices: Sequence[int] | torch.Tensor, geometry: SliceGeometry
) -> torch.Tensor:
    chosen = torch.as_tensor(indices, dtype=torch.int64).cpu().flatten()
    if len(chosen) and not (0 <= int(chosen.min()) and int(chosen.max()) < geometry.count):
        raise ValueError(
            f"indices: expected slices from 0 to {geometry.count - 1}, found {chosen.tolist()}."
        )
    return chosen

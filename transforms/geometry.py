"""Where the pixels of a slice lie in the volume that it was cut from.

Slices are shown in the radiological convention, whatever the orientation in which a volume is
stored, found from its affine:

=========  ========================  =========================
axis       rows, top to bottom       columns, left to right
=========  ========================  =========================
axial      anterior to posterior     right to left of patient
coronal    superior to inferior      right to left of patient
sagittal   superior to inferior      anterior to posterior
=========  ========================  =========================

So the patient's left appears at the right of axial and coronal slices. Oblique volumes are cut
along the stored axis nearest to the anatomical one. Slices are numbered along that stored axis as
the file stores them, so that a number is the one a viewer shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import nibabel as nib
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from nibabel.affines import voxel_sizes

from transforms.errors import InputError

SliceAxis = Literal["axial", "coronal", "sagittal"]

DISPLAY: dict[SliceAxis, tuple[str, str, str]] = {
    "axial": ("IS", "P", "L"),
    "coronal": ("PA", "I", "L"),
    "sagittal": ("LR", "I", "P"),
}
"""Direction of travel of the slices (either sense), the rows (down), the columns (to the right)."""

_OPPOSITE = dict(zip("LRPAIS", "RLAPSI", strict=True))


@dataclass(frozen=True)
class SliceGeometry:
    """The way from an image to its stack of slices, and so the way back.

    Attributes:
        axis: the anatomical axis, or None for a picture, which is a stack of one slice.
        image_shape: (X, Y, Z) of the volume, or (H, W) of the picture.
        affine: 4 x 4, voxel indices to mm in RAS+; the identity for pictures.
        slice_axis: the stored axis that runs through the slices; None for a picture.
        row_axis: the stored axis that runs down a slice.
        column_axis: the stored axis that runs across a slice.
        flip_rows: whether rows run against the stored order.
        flip_columns: whether columns run against the stored order.
        spacing: (row, column) distance between pixels at native resolution, in mm; (1, 1) for
            pictures.
        native_shape: (h, w) of a slice at native resolution.
        fitted_shape: size of the slice once resized to square pixels; equal to ``native_shape``
            when nothing is resampled.
        canvas_shape: (H, W) of the slices that leave; zeros surround the fitted slice.
        offset: (top, left) of the fitted slice on the canvas.
    """

    axis: SliceAxis | None
    image_shape: tuple[int, ...]
    affine: tuple[tuple[float, ...], ...]
    slice_axis: int | None
    row_axis: int
    column_axis: int
    flip_rows: bool
    flip_columns: bool
    spacing: tuple[float, float]
    native_shape: tuple[int, int]
    fitted_shape: tuple[int, int]
    canvas_shape: tuple[int, int]
    offset: tuple[int, int]

    @property
    def count(self) -> int:
        """The number N of slices."""
        return 1 if self.slice_axis is None else self.image_shape[self.slice_axis]

    def to_stack(self, image: torch.Tensor, indices: torch.Tensor | None = None) -> torch.Tensor:
        """Cut an image (C, *image_shape) into native slices, without resampling.

        Args:
            image: on the CPU.
            indices: int64 (K,), the slices to cut; None cuts all.

        Returns:
            (K, C, h, w), a copy.
        """
        rows_columns = (self.row_axis + 1, self.column_axis + 1)
        if self.slice_axis is None:
            stack = image.permute(0, *rows_columns)[None]
        else:
            stack = image.permute(self.slice_axis + 1, 0, *rows_columns)
        return self._flipped(stack if indices is None else stack[indices])

    def from_stack(self, stack: torch.Tensor) -> torch.Tensor:
        """Join native slices (N, h, w) to *image_shape: the inverse for one channel."""
        order: tuple[int, ...] = (self.row_axis, self.column_axis)
        if self.slice_axis is None:
            stack = stack[0]
        else:
            order = (self.slice_axis, *order)
        inverse = [order.index(axis) for axis in range(len(order))]
        return self._flipped(stack, inverse)

    def _flipped(self, stack: torch.Tensor, order: Sequence[int] | None = None) -> torch.Tensor:
        """Flip rows and columns, then permute the axes, but not the memory; in one copy."""
        flips = ((-2, self.flip_rows), (-1, self.flip_columns))
        flipped = np.flip(stack.numpy(), tuple(axis for axis, flip in flips if flip))
        moved = flipped if order is None else flipped.transpose(order)
        return torch.from_numpy(moved.copy(order="C" if order is None else "K"))


def slice_geometry(
    image: torch.Tensor, axis: SliceAxis, canvas_shape: tuple[int, int]
) -> SliceGeometry:
    """Work out how an image is cut and resized.

    Args:
        image: a MetaTensor (C, X, Y, Z) with an affine in mm, or a picture (C, H, W), for which
            ``axis`` has no meaning.
        axis: the anatomical axis along which slices are stacked.
        canvas_shape: (H, W) in pixels.

    Returns:
        The geometry. Pixels are made square; the slice fills the canvas along one side at least.

    Raises:
        InputError: if the image has another number of dimensions, or a volume has no affine.
    """
    axes: tuple[int | None, int, int] = (None, 0, 1)
    flips = (False, False)
    affine = np.eye(4)
    if image.ndim == 3:
        spacing = (1.0, 1.0)
    elif image.ndim == 4 and isinstance(image, MetaTensor):
        affine = np.asarray(image.affine, dtype=np.float64)
        axes, flips = _stored_axes(affine, axis)
        sizes = voxel_sizes(affine)
        spacing = (float(sizes[axes[1]]), float(sizes[axes[2]]))
    else:
        raise InputError(
            "image: expected a picture (C, H, W) or a MetaTensor (C, X, Y, Z) with an affine, "
            f"found {type(image).__name__} of shape {tuple(image.shape)}."
        )
    image_shape = tuple(int(size) for size in image.shape[1:])
    native = (image_shape[axes[1]], image_shape[axes[2]])
    fitted = _fit(native, spacing, canvas_shape)
    return SliceGeometry(
        axis=None if axes[0] is None else axis,
        image_shape=image_shape,
        affine=tuple(tuple(float(value) for value in row) for row in affine),
        slice_axis=axes[0],
        row_axis=axes[1],
        column_axis=axes[2],
        flip_rows=flips[0],
        flip_columns=flips[1],
        spacing=spacing,
        native_shape=native,
        fitted_shape=fitted,
        canvas_shape=canvas_shape,
        offset=((canvas_shape[0] - fitted[0]) // 2, (canvas_shape[1] - fitted[1]) // 2),
    )


def _stored_axes(
    affine: np.ndarray[tuple[int, ...], np.dtype[np.float64]], axis: SliceAxis
) -> tuple[tuple[int, int, int], tuple[bool, bool]]:
    """The stored axes of slices, rows and columns, and whether rows and columns are flipped."""
    # Where each stored axis points, e.g. L, P, S.
    codes = nib.orientations.aff2axcodes(affine)
    if None in codes:
        raise InputError(f"affine: expected an invertible matrix, found {affine.tolist()}.")
    through, down, across = DISPLAY[axis]
    slices = next(i for i, code in enumerate(codes) if code in through)
    rows = next(i for i, code in enumerate(codes) if code in (down, _OPPOSITE[down]))
    columns = next(i for i, code in enumerate(codes) if code in (across, _OPPOSITE[across]))
    return (slices, rows, columns), (codes[rows] != down, codes[columns] != across)


def _fit(
    native: tuple[int, int], spacing: tuple[float, float], canvas: tuple[int, int]
) -> tuple[int, int]:
    """The largest size with square pixels and the slice's proportions that the canvas holds."""
    extent = (native[0] * spacing[0], native[1] * spacing[1])
    pixel = max(extent[0] / canvas[0], extent[1] / canvas[1])
    height, width = (
        min(limit, max(1, math.floor(side / pixel + 0.5)))
        for side, limit in zip(extent, canvas, strict=True)
    )
    return height, width

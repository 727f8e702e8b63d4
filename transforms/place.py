"""Where the pixels of a slice lie in the body, whatever the volume's grid."""

from __future__ import annotations

from typing import cast

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from transforms.geometry import DISPLAY, SliceGeometry

FARTHEST = 2.6
"""Positions are told up to so many standard deviations of the body from its centre."""


def body_place(body: torch.Tensor, geometry: SliceGeometry) -> torch.Tensor:
    """The places of all slices, rows and columns of a volume in the frame of its body.

    The frame has its centre at the body's centre of mass and its standard deviation along each axis
    as the unit, so that volumes of unlike grids and bodies of unlike sizes share it. Left and right
    count alike: the place along that axis is the distance from the middle.

    Args:
        body: of all native slices, ``(N, h, w)`` bool.
        geometry: of the volume.

    Returns:
        float32 ``(N, 1 + H + W)``: of each slice its own place, those of the canvas's rows and
        those of its columns, in [0, 1] with the centre at 0.5.
    """
    codes = nib.orientations.aff2axcodes(np.array(geometry.affine))
    display = DISPLAY[cast(str, geometry.axis)]  # type: ignore[index]
    letters = (codes[cast(int, geometry.slice_axis)], *display[1:])
    offsets = (0.0, *geometry.offset)
    fitted = (geometry.count, *geometry.fitted_shape)
    sizes = (geometry.count, *geometry.canvas_shape)
    places: list[torch.Tensor] = []
    counts = _axis_counts(body.numpy())
    for axis, (letter, size) in enumerate(zip(letters, sizes, strict=True)):
        mean, deviation = _moments(counts[axis])
        scale = body.shape[axis] / fitted[axis]
        voxels = (np.arange(size) - offsets[axis] + 0.5) * scale - 0.5
        place = (voxels - mean) / deviation / FARTHEST
        place = np.abs(place) if letter in "LR" else place * _sign(letter)
        places.append(torch.from_numpy(((place + 1) / 2).clip(0.0, 1.0)).float())
    slices, rows, columns = places
    within = torch.cat([rows, columns]).expand(len(slices), -1)
    return torch.cat([slices[:, None], within], dim=1)


def _axis_counts(body: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """Voxels of the body by slice, by row and by column."""
    seen = body.sum(axis=0, dtype=np.int32)
    slices = np.array([np.count_nonzero(slice_) for slice_ in body], np.int64)
    return slices, seen.sum(axis=1, dtype=np.int64), seen.sum(axis=0, dtype=np.int64)


def _sign(letter: str) -> int:
    return 1 if letter in "AS" else -1


def _moments(weights: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and standard deviation of the positions along an axis, by their weights."""
    positions = np.arange(len(weights))
    total = max(float(weights.sum()), 1.0)
    mean = float((positions * weights).sum() / total)
    variance = float((np.square(positions - mean) * weights).sum() / total)
    return mean, max(variance**0.5, 1.0)

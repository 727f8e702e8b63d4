"""What depends on the number of spatial axes: 1 of signals, 2 of images, 3 of volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from monai.networks.layers.factories import Pool
from torch import Tensor
from torch.nn import functional as F

from .errors import ArgumentError

SIDES: Mapping[int, str] = MappingProxyType(
    {1: "length", 2: "height and width", 3: "depth, height and width"}
)
"""What the size of such an image is, in words."""

KINDS: Mapping[int, str] = MappingProxyType({1: "signals", 2: "images", 3: "patches of volumes"})
"""What has so many axes."""

SHAPES: Mapping[int, str] = MappingProxyType({1: "L", 2: "H, W", 3: "D, H, W"})
"""Its size in letters."""

MEMORY_FORMATS: Mapping[int, torch.memory_format] = MappingProxyType(
    {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}
)
"""In which a GPU convolves fastest."""


def check_spatial_dims(spatial_dims: int) -> int:
    """Return `spatial_dims` if it is 1, 2 or 3.

    Raises:
        ArgumentError: if it is not.
    """
    if spatial_dims not in SIDES:
        raise ArgumentError(
            f"spatial_dims: expected 1 (signals), 2 (images) or 3 (volumes), got {spatial_dims!r}."
        )
    return int(spatial_dims)


def axes_of(values: Tensor) -> tuple[int, ...]:
    """The spatial axes of ``(B, C, *s)``.

    Example:
        >>> axes_of(torch.zeros(2, 1, 8, 8))
        (2, 3)
    """
    return tuple(range(2, values.ndim))


def size_of(values: Tensor) -> tuple[int, ...]:
    """The spatial size s of ``(B, C, *s)``."""
    return tuple(values.shape[axis] for axis in axes_of(values))


def breadth(values: Tensor) -> int:
    """The length in pixels that widths are shares of: the second longest side of ``(B, C, *s)``.

    Of an image it is the shorter side; a patch of a volume may be thin. Of a signal, its length.
    """
    return sorted(map(int, size_of(values)))[-2:][0]


def resized(values: Tensor, size: Sequence[int]) -> Tensor:
    """Values ``(B, C, *s)`` on a grid of another size, by linear interpolation along each axis."""
    mode = ("linear", "bilinear", "trilinear")[len(size) - 1]
    return F.interpolate(values, size=tuple(size), mode=mode, align_corners=False)


def mean_in_cells(values: Tensor, size: Sequence[int]) -> Tensor:
    """The mean of values ``(B, C, *s)`` in each cell of a coarser grid of a size."""
    pooled: Tensor = Pool[Pool.ADAPTIVEAVG, len(size)](tuple(size))(values)
    return pooled


def multiplied(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Each spatial axis of ``(B, C, *s)`` by its matrix ``(..., n, s)``: ``(B, C, *n)``."""
    *others, last = matrices
    for axis, matrix in enumerate(others, start=2):
        values = (matrix @ values.movedim(axis, -2)).movedim(-2, axis)
    return values @ last.mT

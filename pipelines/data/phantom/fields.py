"""Grids, random fields and signed distances from which the brain phantom is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import fft

Volume: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """A regular grid centred on the origin of the phantom's space.

    Axes run towards the patient's left, back and head, as the voxel axes of BraTS do.

    Attributes:
        shape: voxels along each axis.
        spacing: voxel size in mm along each axis.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def edge_width(self) -> float:
        """Width in mm over which one tissue turns into the next (partial volume)."""
        return 0.8 * float(np.mean(self.spacing))

    def coordinates(self) -> Volume:
        """Voxel centres in mm, of shape ``(3, *shape)``."""
        axes = [
            (np.arange(count) - (count - 1) / 2) * step
            for count, step in zip(self.shape, self.spacing, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)

    def frequencies(self) -> Volume:
        """Absolute spatial frequencies in cycles per mm, in the layout of ``rfftn``."""
        x, y, z = (
            transform(count, step)
            for transform, count, step in zip(
                (np.fft.fftfreq, np.fft.fftfreq, np.fft.rfftfreq),
                self.shape,
                self.spacing,
                strict=True,
            )
        )
        squared = x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2
        frequencies: Volume = np.sqrt(squared).astype(np.float32)
        return frequencies


class FieldSource:
    """Draws stationary Gaussian random fields of mean 0 and standard deviation 1 on a grid."""

    def __init__(self, grid: Grid, rng: np.random.Generator) -> None:
        """Prepares the grid's frequencies; ``rng`` is shared with the caller."""
        self._grid = grid
        self._rng = rng
        self._frequencies = grid.frequencies()

    def white(self) -> Volume:
        """Independent normal values of shape ``grid.shape``."""
        return self._rng.standard_normal(self._grid.shape, dtype=np.float32)

    def smooth(self, length: float) -> Volume:
        """White noise after a Gaussian filter of ``length`` mm standard deviation."""
        return self._filtered(np.exp(-2 * (np.pi * length * self._frequencies) ** 2))

    def banded(self, wavelength: float, symmetry: float = 0.0) -> Volume:
        """A field around one wavelength.

        Args:
            wavelength: in mm; raised to what the grid can carry.
            symmetry: 0 leaves the two sides independent, 1 makes them mirror images.
        """
        centre = 1 / max(wavelength, 3 * max(self._grid.spacing))
        field = self._filtered(np.exp(-0.5 * ((self._frequencies / centre - 1) / 0.2) ** 2))
        return _standardised(field + symmetry * field[::-1])

    def _filtered(self, response: Volume) -> Volume:
        spectrum = fft.rfftn(self.white()) * response
        return _standardised(fft.irfftn(spectrum, s=self._grid.shape))


def _standardised(field: npt.NDArray[np.floating]) -> Volume:
    spread = max(float(field.std()), 1e-12)
    standardised: Volume = ((field - field.mean()) / spread).astype(np.float32)
    return standardised


def ramp(distance: Volume, width: float) -> Volume:
    """Soft step in [0, 1]: 0.5 at distance 0, linear over ``width`` mm; positive is inside."""
    step: Volume = np.clip(0.5 + distance / np.float32(width), 0, 1)
    return step


def ellipsoid(
    points: Volume, centre: tuple[float, float, float], axes: tuple[float, float, float]
) -> Volume:
    """Approximate depth in mm inside an ellipsoid, negative outside.

    Args:
        points: coordinates in mm, ``(3, ...)``.
        centre: in mm.
        axes: semi-axes in mm.
    """
    squared = sum(
        ((points[axis] - centre[axis]) / np.float32(axes[axis])) ** 2 for axis in range(3)
    )
    return np.asarray((1 - np.sqrt(squared)) * np.float32(np.cbrt(np.prod(axes))))


def tube(points: Volume, path: tuple[tuple[float, float, float, float], ...]) -> Volume:
    """Depth in mm inside a tube of varying radius, negative outside.

    Args:
        points: coordinates in mm, ``(3, ...)``.
        path: corners ``(x, y, z, radius)`` in mm.
    """
    corners = np.asarray(path, dtype=np.float32)
    depth = np.full(points.shape[1:], -np.inf, dtype=np.float32)
    for start, stop in zip(corners[:-1], corners[1:], strict=True):
        axis = stop[:3] - start[:3]
        offset = [points[i] - start[i] for i in range(3)]
        along = sum(offset[i] * axis[i] for i in range(3)) / np.dot(axis, axis)
        along = np.clip(along, 0, 1)
        squared = sum((offset[i] - along * axis[i]) ** 2 for i in range(3))
        np.maximum(depth, start[3] + along * (stop[3] - start[3]) - np.sqrt(squared), out=depth)
    return depth

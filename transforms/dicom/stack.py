"""The order and the geometry of DICOM slices: what makes them one volume.

A stack is made only of parallel slices of one series and one grid, along their common normal and
evenly spaced. They are ordered by their position along the normal, the cross product of the row
and the column direction (ImageOrientationPatient), so that the axes are right-handed in the
patient's space; neither file names nor instance numbers play a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TypeVar

import numpy as np

from transforms.dicom.header import Array, DicomHeader
from transforms.errors import InputError

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference between direction cosines that are taken to be equal, and the largest
deviation from unit length and right angles."""

PIXEL_SPACING_TOLERANCE = 1e-3
"""Largest difference (mm) between the PixelSpacing of slices of one volume."""

SAME_POSITION_TOLERANCE = 0.01
"""Distance along the normal (mm) up to which two slices are taken to lie at one position."""

SPACING_TOLERANCE = (0.01, 0.05)
"""Largest distance of a slice from the evenly spaced grid through the first and the last slice:
as a share of the spacing, or in mm, whichever is more."""

SHEAR_TOLERANCE = (1e-3, 0.05)
"""Largest shift of a slice within its plane against the first one: in mm per mm along the normal,
or in mm, whichever is more."""

GANTRY_TILT_TOLERANCE = 0.01
"""Largest GantryDetectorTilt (degrees) that counts as none."""

# What the slices of one grid share: attribute, its name in messages, tolerance.
_ALIKE = {
    "orientation": ("ImageOrientationPatient", ORIENTATION_TOLERANCE),
    "shape": ("shape (rows, columns)", 0.0),
    "spacing": ("PixelSpacing", PIXEL_SPACING_TOLERANCE),
}

# DICOM counts towards the patient's left and back, RAS+ towards the right and front.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MOST_NAMED = 4  # files in a message
_STRAIGHTEN = "Convert the series with a tool that corrects gantry tilt, e.g. dcm2niix."


P = TypeVar("P", bound="Plane")


def stack(folder: Path, headers: Sequence[DicomHeader]) -> tuple[list[DicomHeader], Array]:
    """Order the slices of a volume and find its affine.

    Args:
        folder: the folder or multi-frame file that the slices are in, for messages.
        headers: those of all slices of one series, in any order.

    Returns:
        The headers in the order of their position along the normal, and the affine, float64
        4 x 4: from (column, row, slice) indices to mm in RAS+.

    Raises:
        InputError: if there are fewer than two slices, several orientations, shapes or pixel
            spacings, several slices at one position, gaps, or a tilted gantry.
    """
    if len(headers) < 2:
        raise InputError(
            f"{folder}: expected the slices of a volume, found one slice, {_list(headers)}. Add "
            "the missing slices, or name the file itself to read it as a picture."
        )
    slices = [_Slice.of(header) for header in headers]
    _require_one_grid(folder, slices)
    normal = slices[0].normal
    slices.sort(key=lambda item: float(item.position @ normal))
    offsets = np.stack([item.position - slices[0].position for item in slices])
    heights = offsets @ normal
    _require_one_slice_per_position(folder, slices, heights)
    _require_upright(folder, slices, offsets - np.outer(heights, normal), heights)
    _require_even_spacing(folder, slices, heights)
    affine = np.eye(4)
    affine[:3, 0] = slices[0].orientation[0] * slices[0].spacing[1]
    affine[:3, 1] = slices[0].orientation[1] * slices[0].spacing[0]
    affine[:3, 2] = offsets[-1] / (len(slices) - 1)
    affine[:3, 3] = slices[0].position
    return [item.header for item in slices], _LPS_TO_RAS @ affine


@dataclass(frozen=True)
class Plane:
    """A slice whose place in the patient is known.

    Attributes:
        shape: (rows, columns).
        position: of the first pixel's centre, (3,) in mm, LPS+.
        orientation: (2, 3) unit vectors along a row and down a column, LPS+.
        spacing: (between rows, between columns) in mm.
    """

    shape: tuple[int, int]
    position: Array
    orientation: Array
    spacing: Array

    @property
    def normal(self) -> Array:
        """Unit vector across the slice, (3,)."""
        normal = np.cross(*self.orientation)
        return np.asarray(normal / np.linalg.norm(normal))


def differing(planes: Sequence[P]) -> tuple[str, list[P]]:
    """What is not the same in all slices.

    Returns:
        The name of an attribute and the slices in which it is not as in the first one; "" and none
        if all lie on one grid.
    """
    for name, (_, tolerance) in _ALIKE.items():
        first, *others = (np.asarray(getattr(plane, name)) for plane in planes)
        apart = [np.abs(other - first).max() > tolerance for other in others]
        if any(apart):
            return name, list(compress(planes[1:], apart))
    return "", []


@dataclass(frozen=True)
class _Slice(Plane):
    """A slice to be stacked, with its header."""

    header: DicomHeader

    @classmethod
    def of(cls, header: DicomHeader) -> _Slice:
        """Refuse a header without a usable place."""
        position, orientation, spacing = header.position, header.orientation, header.spacing
        if position is None or orientation is None or spacing is None:
            values = {
                "ImagePositionPatient": position,
                "ImageOrientationPatient": orientation,
                "PixelSpacing": spacing,
            }
            missing = ", ".join(name for name, value in values.items() if value is None)
            raise InputError(
                f"{_place(header)}: expected a slice of a volume, but {missing} is missing or "
                "malformed. Name a single-frame file itself to read it as a picture."
            )
        angles = orientation @ orientation.T
        if np.abs(angles - np.eye(2)).max() > ORIENTATION_TOLERANCE or (spacing <= 0).any():
            raise InputError(
                f"{_place(header)}: expected perpendicular unit vectors in ImageOrientationPatient "
                f"and a positive PixelSpacing, found {orientation.tolist()} and "
                f"{spacing.tolist()}. Export the series again."
            )
        if abs(header.tilt) > GANTRY_TILT_TOLERANCE:
            raise InputError(
                f"{_place(header)}: expected an upright gantry, found GantryDetectorTilt "
                f"{header.tilt:g} degrees. {_STRAIGHTEN}"
            )
        return cls(header.shape, position, orientation, spacing, header)


def _require_one_grid(folder: Path, slices: Sequence[_Slice]) -> None:
    name, others = differing(slices)
    if others:
        first, other = (np.asarray(getattr(item, name)).tolist() for item in (slices[0], others[0]))
        raise InputError(
            f"{folder}: expected one {_ALIKE[name][0]}, found {first} in {slices[0].header.name} "
            f"but {other} in {_list([item.header for item in others])}. Put each stack into a "
            "folder of its own."
        )


def _require_one_slice_per_position(folder: Path, slices: Sequence[_Slice], heights: Array) -> None:
    same = np.flatnonzero(np.diff(heights) <= SAME_POSITION_TOLERANCE)
    if same.size:
        there = [
            item.header
            for item, height in zip(slices, heights, strict=True)
            if abs(height - heights[same[0]]) <= SAME_POSITION_TOLERANCE
        ]
        raise InputError(
            f"{folder}: expected one slice per position, found {len(slices)} slices at "
            f"{len(slices) - same.size} positions, e.g. {_list(there)} at one. These are "
            "duplicates, or several time points, echoes or directions. Put each volume into a "
            "folder of its own."
        )


def _require_upright(folder: Path, slices: Sequence[_Slice], shifts: Array, heights: Array) -> None:
    lengths = np.linalg.norm(shifts, axis=1)
    excess = lengths - np.maximum(SHEAR_TOLERANCE[0] * heights, SHEAR_TOLERANCE[1])
    worst = int(excess.argmax())
    if excess[worst] > 0:
        angle = np.degrees(np.arctan2(lengths[worst], heights[worst]))
        raise InputError(
            f"{folder}: expected slices stacked along their normal, but "
            f"{slices[worst].header.name} is shifted by {lengths[worst]:.3f} mm within its "
            f"plane against {slices[0].header.name}, at an angle of {angle:.2f} degrees, as "
            f"from a tilted gantry. {_STRAIGHTEN}"
        )


def _require_even_spacing(folder: Path, slices: Sequence[_Slice], heights: Array) -> None:
    spacing = heights[-1] / (len(heights) - 1)
    deviation = np.abs(heights - spacing * np.arange(len(heights))).max()
    if deviation > max(SPACING_TOLERANCE[0] * spacing, SPACING_TOLERANCE[1]):
        gaps = np.diff(heights)
        usual = float(np.median(gaps))
        odd = int(np.abs(gaps - usual).argmax())
        raise InputError(
            f"{folder}: expected evenly spaced slices, found gaps from {gaps.min():.3f} to "
            f"{gaps.max():.3f} mm: {usual:.3f} mm as a rule but {gaps[odd]:.3f} mm between "
            f"{slices[odd].header.name} and {slices[odd + 1].header.name}. Add the "
            "missing slices or resample the volume to an even spacing."
        )


def _place(header: DicomHeader) -> str:
    return f"{header.path.parent / header.name}"


def _list(headers: Sequence[DicomHeader]) -> str:
    names = sorted(header.name for header in headers)
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")

"""DICOM to arrays: a file as a picture, the slices of one series in a folder as a volume.

What would have to be guessed is refused; see ``transforms.dicom_files`` for files and
``transforms.dicom_stack`` for the order and the geometry of slices.

Values are the stored ones times RescaleSlope plus RescaleIntercept, slice by slice. Windows (VOI
LUT), overlays and padding values are not applied. MONOCHROME1, where high values are dark, is
inverted within the range that BitsStored can hold, stored -> lowest + highest - stored, before
rescaling, so that high values are bright everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from transforms.dicom_files import Array, DicomHeader, decode, is_dicom, read_header
from transforms.dicom_stack import stack
from transforms.errors import InputError

DICOM_SUFFIXES = (".dcm", ".dicom")


def holds_dicom(folder: Path) -> bool:
    """Whether a folder directly holds DICOM files, by name or by content."""
    return bool(_dicom_files(folder))


def read_dicom(path: Path) -> tuple[Array, Array, dict[str, Any]]:
    """Read a DICOM file as a picture, or a folder with the slices of one series as a volume.

    A single file is always a picture, even if it is a slice of a scan; a folder is always a
    volume, and one with a single slice is refused, as it is probably incomplete.

    Args:
        path: a single-frame file, or a folder. In a folder hidden files and files that are not
            DICOM are passed over; names and numbers play no part in the order of the slices.

    Returns:
        The values, (1, H, W), (3, H, W) for colour, or float32 (1, X, Y, Z) with X along the rows
        (columns counted), Y down the columns and Z along the normal; the affine, float64 4 x 4 in
        mm, RAS+ (the identity for pictures); and ``modality``, ``series_uid`` and, for pictures,
        ``bit_depth``: 8 for values that surely lie in 0..255 (at most 8 bits, unsigned, not
        rescaled), otherwise 16, which leads to scaling by percentiles.

    Raises:
        InputError: if a file cannot be read, is not a single-frame image of 8 or 16 bits, or if
            the slices of a folder do not form one evenly spaced, upright stack.
    """
    return _read_series(path) if path.is_dir() else _read_single(path)


def _read_single(path: Path) -> tuple[Array, Array, dict[str, Any]]:
    header = read_header(path)
    values = _values(header)
    channels = values[None] if header.grey else np.moveaxis(values, -1, 0)
    if (channels == channels[:1]).all():
        channels = channels[:1]
    rescaled = (header.slope, header.intercept) != (1.0, 0.0)
    depth = 16 if header.bits > 8 or header.signed or rescaled else 8
    return channels, np.eye(4), {"bit_depth": depth, **_names(header)}


def _read_series(folder: Path) -> tuple[Array, Array, dict[str, Any]]:
    headers = [read_header(path) for path in _dicom_files(folder)]
    for header in headers:
        if not header.grey:
            raise InputError(
                f"{header.path}: expected grey slices, found colour, as in maps that a workstation "
                "computed. Leave this series out."
            )
    ordered, affine = stack(folder, headers)
    volume = np.empty((1, ordered[0].shape[1], ordered[0].shape[0], len(ordered)), np.float32)
    for index, header in enumerate(ordered):
        with np.errstate(over="ignore"):  # what overflows is reported as infinite by the caller
            volume[0, :, :, index] = _values(header).T
    return volume, affine, _names(ordered[0])


def _names(header: DicomHeader) -> dict[str, str]:
    return {"modality": header.modality, "series_uid": header.series_uid}


def _values(header: DicomHeader) -> Array:
    """Decode, invert and rescale one image: (H, W) or (H, W, 3), float64."""
    values = decode(header).astype(np.float64)
    if header.inverted:
        lowest_plus_highest = -1 if header.signed else 2**header.bits - 1
        values = lowest_plus_highest - values
    return values * header.slope + header.intercept


def _dicom_files(folder: Path) -> list[Path]:
    """The DICOM files in a folder, by name or content, without hidden ones and indices."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and not path.name.startswith(".")
        and path.name.upper() != "DICOMDIR"
        and (path.name.lower().endswith(DICOM_SUFFIXES) or is_dicom(path))
    ]

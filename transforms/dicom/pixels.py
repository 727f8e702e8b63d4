"""The pixels of DICOM files: stored values, and what they mean.

SimpleITK decodes, since it knows the compressed transfer syntaxes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pydicom

from transforms import decoder
from transforms.dicom.files import reading
from transforms.dicom.fit import require_fit
from transforms.dicom.header import Array, DicomHeader
from transforms.errors import InputError

_SECONDARY_CAPTURE = pydicom.uid.UID("1.2.840.10008.5.1.4.1.1.7")

# What the decoder gets to see.
_PIXEL_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)


def decode(header: DicomHeader) -> Array:
    """Decode the stored values of all frames of a file, neither inverted nor rescaled.

    The decoder is given a copy of the file that holds the pixels alone. So it cannot apply what
    it believes of rescaling or inversion, which depends on the kind of object, and cannot stumble
    over private elements.

    Args:
        header: of any frame of the file.

    Returns:
        Integers of shape (frames, H, W) or, for colour, (frames, H, W, 3) in RGB.

    Raises:
        InputError: if the pixels are missing, cut off or cannot be decoded.
    """
    path = header.path
    with reading(path):
        dataset = _pixels_only(path)
        compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
        pixels = decoder.decode(path, partial(_written, dataset), "GDCMImageIO", compressed)
    expected = (header.frames, *header.shape) + (() if header.grey else (3,))
    if pixels.shape != expected:
        raise InputError(
            f"{path}: expected pixels of shape {expected} as its header says, found "
            f"{pixels.shape}. Copy or export the file again."
        )
    return pixels


def _written(dataset: pydicom.FileDataset, folder: Path) -> Path:
    dataset.save_as(folder / "pixels.dcm")
    return folder / "pixels.dcm"


def meaning(header: DicomHeader, stored: Array) -> Array:
    """Invert and rescale the stored values of one frame.

    Args:
        header: of the frame.
        stored: (H, W) or (H, W, 3), integers.

    Returns:
        float64 of the same shape, in the unit of the modality; high values are bright.
    """
    values = stored.astype(np.float64)
    if header.inverted:
        values = _lowest_plus_highest(header) - values
    return values * header.slope + header.intercept


def shown_window(header: DicomHeader) -> tuple[float, float] | None:
    """The window (centre, width) of a frame, for what ``meaning`` returns; None if none."""
    if header.window is None or not header.inverted:
        return header.window
    centre, width = header.window
    mirror = _lowest_plus_highest(header) * header.slope + 2 * header.intercept
    # DICOM's linear function is centred half a unit below the window's centre.
    return mirror - centre + (1.0 if header.window_function == "LINEAR" else 0.0), width


def _lowest_plus_highest(header: DicomHeader) -> int:
    return -1 if header.signed else 2**header.bits - 1


def _pixels_only(path: Path) -> pydicom.FileDataset:
    """A copy of the file in memory that holds the pixels and nothing of the patient."""
    dataset = pydicom.dcmread(path)
    if "PixelData" not in dataset:
        raise InputError(
            f"{path}: expected a DICOM image, found no or cut-off pixel data. Copy it again."
        )
    kept = {pydicom.datadict.tag_for_keyword(keyword) for keyword in _PIXEL_KEYWORDS}
    for tag in set(dataset.keys()) - kept:
        del dataset[tag]
    require_fit(path, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = _SECONDARY_CAPTURE
    return dataset

"""One DICOM file: what its header says, whether it can be read, and its stored values.

pydicom reads the headers, which decide what is read and what is refused; SimpleITK decodes the
pixels, since it knows the compressed transfer syntaxes.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.utils.module import optional_import

from transforms.errors import InputError

sitk, _ = optional_import("SimpleITK")

Array = np.ndarray[Any, Any]

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_RCT", "YBR_ICT", "YBR_FULL", "YBR_FULL_422")
# The compressions with which the decoder is known to turn YBR_FULL and YBR_FULL_422 into RGB.
_YBR_FULL_COMPRESSIONS = (pydicom.uid.JPEGBaseline8Bit, pydicom.uid.RLELossless)
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
_SECONDARY_CAPTURE = pydicom.uid.UID("1.2.840.10008.5.1.4.1.1.7")

# Only these are ever converted to values, so that no error or warning can quote a patient's name.
_HEADER_KEYWORDS = (
    "SOPClassUID",
    "SeriesInstanceUID",
    "Modality",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "GantryDetectorTilt",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)
# What the decoder gets to see.
_PIXEL_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)


@dataclass(frozen=True)
class DicomHeader:
    """What the header of one single-frame image says; see ``read_header``.

    Attributes:
        path: the file.
        series_uid: SeriesInstanceUID, "" if there is none.
        modality: Modality, "" if there is none.
        shape: (rows, columns).
        grey: whether a pixel holds one value; otherwise red, green and blue.
        inverted: whether high values are dark (MONOCHROME1).
        bits: BitsStored, 1 to 16.
        signed: whether stored values may be negative.
        slope: RescaleSlope, 1 if there is none.
        intercept: RescaleIntercept, 0 if there is none.
        position: of the first pixel's centre, in mm, LPS+; None if there is none.
        orientation: (2, 3) unit vectors along a row and down a column, LPS+; None if none.
        spacing: (between rows, between columns) in mm; None if there is none.
        tilt: GantryDetectorTilt in degrees, 0 if there is none.
    """

    path: Path
    series_uid: str
    modality: str
    shape: tuple[int, int]
    grey: bool
    inverted: bool
    bits: int
    signed: bool
    slope: float
    intercept: float
    position: Array | None
    orientation: Array | None
    spacing: Array | None
    tilt: float


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do: 128 bytes of any kind, then ``DICM``.

    Raises:
        InputError: if the file cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise InputError(
            f"{path}: expected a readable file, but opening it failed ({error.strerror}). Check "
            "its permissions."
        ) from error


def read_header(path: Path) -> DicomHeader:
    """Read what is needed of the header of one image.

    Args:
        path: a DICOM file.

    Returns:
        The header, checked.

    Raises:
        InputError: if the file is not DICOM or not a single-frame image that can be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=list(_HEADER_KEYWORDS)
            )
            _require_plain_image(path, dataset)
            return _header(path, dataset)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom raises whatever a damaged element leads to
        raise _undecodable(path, error) from error


def decode(header: DicomHeader) -> Array:
    """Decode the stored values of one image, neither inverted nor rescaled.

    The decoder is given a copy of the file that holds the pixels alone. So it cannot apply what
    it believes of rescaling or inversion, which depends on the kind of object, and cannot stumble
    over private elements.

    Args:
        header: what ``read_header`` returned.

    Returns:
        Integers of shape (H, W) or, for colour, (H, W, 3) in RGB.

    Raises:
        InputError: if the pixels are missing, cut off or cannot be decoded.
    """
    path = header.path
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            copy = Path(folder) / "pixels.dcm"
            _pixels_only(path).save_as(copy)
            image = sitk.ReadImage(str(copy), imageIO="GDCMImageIO")
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise _undecodable(path, error) from error
    pixels: Array = sitk.GetArrayFromImage(image)[0]
    expected = header.shape if header.grey else (*header.shape, 3)
    if pixels.shape != expected:
        raise InputError(
            f"{path}: expected pixels of shape {expected} as its header says, found "
            f"{pixels.shape}. Copy or export the file again."
        )
    return pixels


def _require_plain_image(path: Path, dataset: pydicom.FileDataset) -> None:
    """Refuse what is not one frame of pixels, or is more than a frame."""
    if dataset.get("SOPClassUID") == _DIRECTORY_CLASS:
        raise InputError(f"{path}: expected an image, found a DICOMDIR. Name a file it lists.")
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise InputError(
            f"{path}: expected a DICOM image, found an object without pixels (modality "
            f"{_text(dataset, 'Modality') or 'unknown'}). Leave this file out."
        )
    # Enhanced objects keep their geometry per frame, so that even one frame needs other code.
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1 or "Enhanced" in pydicom.uid.UID(_text(dataset, "SOPClassUID")).name:
        raise InputError(
            f"{path}: expected a single-frame image, found a multi-frame or enhanced object of "
            f"{frames} frame(s) (modality {_text(dataset, 'Modality') or 'unknown'}), which is "
            "not read yet. Convert images to NIfTI, e.g. with dcm2niix."
        )
    if "MOSAIC" in np.char.upper(np.atleast_1d(np.array(dataset.get("ImageType") or "", str))):
        raise InputError(
            f"{path}: expected one slice, found a Siemens mosaic, which holds a whole volume as "
            "tiles and is not read yet. Convert it to NIfTI, e.g. with dcm2niix."
        )
    _require_plain_pixels(path, dataset)


def _require_plain_pixels(path: Path, dataset: pydicom.FileDataset) -> None:
    """Refuse pixels that the decoder does not decode reliably."""
    colours = _text(dataset, "PhotometricInterpretation")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if colours not in _GREY + _COLOUR or samples != (1 if colours in _GREY else 3):
        raise InputError(
            f"{path}: expected the photometric interpretation {', '.join(_GREY + _COLOUR)} with "
            f"its number of samples per pixel, found {colours or 'none'} with {samples}. Export "
            "the file as grey or RGB."
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    if "FULL" in colours and syntax.is_compressed and syntax not in _YBR_FULL_COMPRESSIONS:
        raise InputError(
            f"{path}: expected {colours} uncompressed or as JPEG Baseline or RLE, found "
            f"{syntax.name}. Export the file as RGB."
        )
    allowed = (8, 16) if colours in _GREY else (8,)
    bits = (int(dataset.get("BitsAllocated") or 0), int(dataset.get("BitsStored") or 0))
    if bits[0] not in allowed or not 1 <= bits[1] <= bits[0]:
        raise InputError(
            f"{path}: expected {' or '.join(map(str, allowed))} bits allocated for {colours} and "
            f"at most as many stored, found {bits[0]} and {bits[1]}. Convert the file to NIfTI or "
            "to a picture."
        )
    if "ModalityLUTSequence" in dataset:
        raise InputError(
            f"{path}: expected values rescaled by slope and intercept, found a modality lookup "
            "table, which is not read. Convert the file to NIfTI."
        )


def _header(path: Path, dataset: pydicom.Dataset) -> DicomHeader:
    colours = _text(dataset, "PhotometricInterpretation")
    slope = _number(dataset, "RescaleSlope", 1.0)
    intercept = _number(dataset, "RescaleIntercept", 0.0)
    if slope == 0.0 or not np.isfinite([slope, intercept]).all():
        raise InputError(
            f"{path}: expected a finite RescaleSlope other than 0 and a finite RescaleIntercept, "
            f"found {slope} and {intercept}. Export the file again."
        )
    orientation = _vector(dataset, "ImageOrientationPatient", 6)
    return DicomHeader(
        path=path,
        series_uid=_text(dataset, "SeriesInstanceUID"),
        modality=_text(dataset, "Modality"),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        grey=colours in _GREY,
        inverted=colours == "MONOCHROME1",
        bits=int(dataset.BitsStored),
        signed=bool(dataset.get("PixelRepresentation")),
        slope=slope,
        intercept=intercept,
        position=_vector(dataset, "ImagePositionPatient", 3),
        orientation=None if orientation is None else orientation.reshape(2, 3),
        spacing=_vector(dataset, "PixelSpacing", 2),
        tilt=_number(dataset, "GantryDetectorTilt", 0.0),
    )


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "")


def _number(dataset: pydicom.Dataset, keyword: str, default: float) -> float:
    value = dataset.get(keyword)
    return default if value is None or value == "" else float(value)


def _vector(dataset: pydicom.Dataset, keyword: str, size: int) -> Array | None:
    """An element of several numbers, or None if it is missing or has another number of them."""
    values = np.atleast_1d(np.asarray(dataset.get(keyword) or [], dtype=np.float64))
    return values if values.size == size and bool(np.isfinite(values).all()) else None


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
    _require_whole_pixels(path, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = _SECONDARY_CAPTURE
    return dataset


def _require_whole_pixels(path: Path, dataset: pydicom.FileDataset) -> None:
    """Refuse uncompressed pixels that are cut off, which the decoder would make up."""
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        return
    # YBR_FULL_422 shares the two colour values between neighbouring pixels.
    halved = dataset.PhotometricInterpretation == "YBR_FULL_422"
    samples = 2 if halved else int(dataset.get("SamplesPerPixel") or 1)
    expected = dataset.Rows * dataset.Columns * samples * dataset.BitsAllocated // 8
    if len(dataset.PixelData) < expected:
        raise InputError(
            f"{path}: expected {expected} bytes of pixels, found {len(dataset.PixelData)}: the "
            "file is cut off. Copy it again."
        )


def _undecodable(path: Path, error: Exception) -> InputError:
    # The error's own text may quote the header, so only its kind is told.
    return InputError(
        f"{path}: expected a readable DICOM image, but reading it failed "
        f"({type(error).__name__}). It may be truncated, damaged or not DICOM at all; copy or "
        "export it again."
    )

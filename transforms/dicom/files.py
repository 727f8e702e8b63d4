"""One DICOM file: what it is, whether it can be read, and the headers of its images.

pydicom reads the headers, which decide what is read and what is refused;
``transforms.dicom.pixels`` decodes.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from transforms.compressed import inflate
from transforms.dicom.frames import FRAME_KEYWORDS, frame_headers
from transforms.dicom.header import GREY, DicomHeader, header_of, text
from transforms.errors import InputError
from transforms.limits import require_memory

_COLOUR = ("RGB", "YBR_RCT", "YBR_ICT", "YBR_FULL", "YBR_FULL_422")
# The compressions with which the decoder is known to turn YBR_FULL and YBR_FULL_422 into RGB.
_YBR_FULL_COMPRESSIONS = (pydicom.uid.JPEGBaseline8Bit, pydicom.uid.RLELossless)

# Objects with a pixel grid that say something of an image but are none.
_ABOUT_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a label map segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiation dose",
}
_META_START = 144  # of what the meta information's length counts
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"

# Only these are ever converted to values, so that no error or warning can quote a patient's name.
_HEADER_KEYWORDS = (
    "SOPClassUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "FrameOfReferenceUID",
    "Modality",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "GantryDetectorTilt",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    *FRAME_KEYWORDS,
)


@dataclass(frozen=True)
class DicomObject:
    """One DICOM file, whether or not it can be read as an image.

    Attributes:
        path: the file.
        series_uid: SeriesInstanceUID, "" if there is none.
        series_number: SeriesNumber; None if there is none.
        modality: Modality, "" if there is none.
        is_image: whether the object is an image at all, unlike a report or a segmentation.
        headers: those of its frames, in stored order; empty if it cannot be read.
        problem: why it cannot be read, "" if it can.
    """

    path: Path
    series_uid: str
    series_number: int | None
    modality: str
    is_image: bool
    headers: tuple[DicomHeader, ...]
    problem: str

    @property
    def checked(self) -> tuple[DicomHeader, ...]:
        """The headers.

        Raises:
            InputError: if the object cannot be read.
        """
        if self.problem:
            raise InputError(self.problem)
        return self.headers


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


def read_object(path: Path) -> DicomObject:
    """Read what is needed of the header of one file.

    Args:
        path: a DICOM file.

    Returns:
        What it is. An object that cannot be read as an image is told by its ``problem``.

    Raises:
        InputError: if the file is not DICOM or damaged.
    """
    with reading(path):
        _require_bounded(path)
        dataset = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=list(_HEADER_KEYWORDS)
        )
        return _object(path, dataset)


def _require_bounded(path: Path) -> None:
    """Refuse a deflated file that is damaged or too large, before pydicom inflates all of it."""
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
        size = 0
        start = _META_START + meta.FileMetaInformationGroupLength
        for piece in inflate(path, start, -zlib.MAX_WBITS):
            size += len(piece)
            require_memory(path, size)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Holds back warnings, and tells of whatever a decoder stumbles over as a fault of the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom raises whatever a damaged element leads to
        # The error's own text may quote the header, so only its kind is told.
        raise InputError(
            f"{path}: expected a readable DICOM image, but reading it failed "
            f"({type(error).__name__}). It may be truncated, damaged or not DICOM at all; copy or "
            "export it again."
        ) from error


def _object(path: Path, dataset: pydicom.FileDataset) -> DicomObject:
    problem = _no_image(path, dataset)
    is_image = not problem
    headers: tuple[DicomHeader, ...] = ()
    if is_image:
        try:
            headers = _headers(path, dataset)
        except InputError as error:
            problem = str(error)
    series_number = text(dataset, "SeriesNumber")
    return DicomObject(
        path=path,
        series_uid=text(dataset, "SeriesInstanceUID"),
        series_number=int(series_number) if series_number.isdecimal() else None,
        modality=text(dataset, "Modality"),
        is_image=is_image,
        headers=headers,
        problem=problem,
    )


def _no_image(path: Path, dataset: pydicom.Dataset) -> str:
    """Why an object is no image at all; "" if it may be one."""
    if dataset.get("SOPClassUID") == _DIRECTORY_CLASS:
        return f"{path}: expected an image, found a DICOMDIR. Name a file or folder it lists."
    modality = f"(modality {text(dataset, 'Modality') or 'unknown'})"
    if not dataset.get("Rows") or not dataset.get("Columns"):
        return (
            f"{path}: expected a DICOM image, found an object without pixels {modality}. Leave "
            "this file out."
        )
    about = _ABOUT_IMAGES.get(text(dataset, "SOPClassUID"))
    if about:
        return (
            f"{path}: expected a DICOM image, found {about} {modality}. Leave this file out; "
            "convert a lesion mask to NIfTI on the grid of its image."
        )
    return ""


def _headers(path: Path, dataset: pydicom.FileDataset) -> tuple[DicomHeader, ...]:
    if "MOSAIC" in np.char.upper(np.atleast_1d(np.array(dataset.get("ImageType") or "", str))):
        raise InputError(
            f"{path}: expected one slice, found a Siemens mosaic, which holds a whole volume as "
            "tiles and is not read. Convert it to NIfTI, e.g. with dcm2niix."
        )
    _require_plain_pixels(path, dataset)
    # Enhanced objects keep their geometry per frame, even if there is only one.
    enhanced = "Enhanced" in pydicom.uid.UID(text(dataset, "SOPClassUID")).name
    if int(dataset.get("NumberOfFrames") or 1) > 1 or enhanced:
        return frame_headers(path, dataset)
    return (header_of(path, dataset),)


def _require_plain_pixels(path: Path, dataset: pydicom.FileDataset) -> None:
    """Refuse pixels that the decoder does not decode reliably."""
    colours = text(dataset, "PhotometricInterpretation")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if colours not in GREY + _COLOUR or samples != (1 if colours in GREY else 3):
        raise InputError(
            f"{path}: expected the photometric interpretation {', '.join(GREY + _COLOUR)} with "
            f"its number of samples per pixel, found {colours or 'none'} with {samples}. Export "
            "the file as grey or RGB."
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    if "FULL" in colours and syntax.is_compressed and syntax not in _YBR_FULL_COMPRESSIONS:
        raise InputError(
            f"{path}: expected {colours} uncompressed or as JPEG Baseline or RLE, found "
            f"{syntax.name}. Export the file as RGB."
        )
    allowed = (8, 16) if colours in GREY else (8,)
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

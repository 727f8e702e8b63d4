"""What the header of one DICOM image or frame says, as checked, plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from transforms.errors import InputError

Array = np.ndarray[Any, Any]

GREY = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class DicomHeader:
    """What the header of one image, or of one frame of a multi-frame object, says.

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
        window: the first (WindowCenter, WindowWidth), for rescaled values; None if none.
        window_function: VOILUTFunction: LINEAR, LINEAR_EXACT or SIGMOID.
        frame_of_reference: FrameOfReferenceUID, "" if there is none. Positions of images with
            different ones cannot be compared.
        frame: number of the frame, from 0.
        frames: number of frames that the file holds.
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
    window: tuple[float, float] | None
    window_function: str
    frame_of_reference: str
    frame: int = 0
    frames: int = 1

    @property
    def name(self) -> str:
        """The file's name, with the number of the frame, from 1 as in DICOM, if it has several."""
        return self.path.name + (f" frame {self.frame + 1}" if self.frames > 1 else "")


def header_of(path: Path, dataset: pydicom.Dataset, frame: int = 0, frames: int = 1) -> DicomHeader:
    """Take the values from a data set that describes one image.

    Args:
        path: where it was read.
        dataset: its elements, in which those of a frame stand beside those of the whole object.
        frame: number of the frame, from 0.
        frames: number of frames of the object.

    Raises:
        InputError: if the values cannot be rescaled.
    """
    colours = text(dataset, "PhotometricInterpretation")
    slope = number(dataset, "RescaleSlope", 1.0)
    intercept = number(dataset, "RescaleIntercept", 0.0)
    if slope == 0.0 or not np.isfinite([slope, intercept]).all():
        raise InputError(
            f"{path}: expected a finite RescaleSlope other than 0 and a finite RescaleIntercept, "
            f"found {slope} and {intercept}. Export the file again."
        )
    orientation = vector(dataset, "ImageOrientationPatient", 6)
    return DicomHeader(
        path=path,
        series_uid=text(dataset, "SeriesInstanceUID"),
        modality=text(dataset, "Modality"),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        grey=colours in GREY,
        inverted=colours == "MONOCHROME1",
        bits=int(dataset.BitsStored),
        signed=bool(dataset.get("PixelRepresentation")),
        slope=slope,
        intercept=intercept,
        position=vector(dataset, "ImagePositionPatient", 3),
        orientation=None if orientation is None else orientation.reshape(2, 3),
        spacing=vector(dataset, "PixelSpacing", 2),
        tilt=number(dataset, "GantryDetectorTilt", 0.0),
        window=_window(dataset),
        window_function=text(dataset, "VOILUTFunction") or "LINEAR",
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        frame=frame,
        frames=frames,
    )


def text(dataset: pydicom.Dataset, keyword: str) -> str:
    """An element as text, "" if it is missing or empty."""
    return str(dataset.get(keyword) or "")


def number(dataset: pydicom.Dataset, keyword: str, default: float) -> float:
    """An element of one number, the default if it is missing or empty."""
    value = dataset.get(keyword)
    return default if value is None or value == "" else float(value)


def vector(dataset: pydicom.Dataset, keyword: str, size: int) -> Array | None:
    """An element of several numbers, or None if it is missing or has another number of them."""
    values = np.atleast_1d(np.asarray(dataset.get(keyword) or [], dtype=np.float64))
    return values if values.size == size and bool(np.isfinite(values).all()) else None


def _window(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """The first of the windows that a header offers; None if it offers none that can be used."""
    try:
        values = [dataset.get(keyword) for keyword in ("WindowCenter", "WindowWidth")]
        centre, width = (float(np.atleast_1d(np.asarray(value, np.float64))[0]) for value in values)
    except (TypeError, ValueError, IndexError):  # missing, empty or no numbers
        return None
    return (centre, width) if np.isfinite([centre, width]).all() and width > 0 else None

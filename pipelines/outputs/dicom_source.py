"""The slices that a result in DICOM refers to: where they lie, and to whom they belong.

Single-frame files and the frames of an enhanced file become the same stack of planes. Only the
elements named here are ever converted to values, so that no error or warning can quote others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from transforms.dicom import ORIENTATION_TOLERANCE, PIXEL_SPACING_TOLERANCE
from transforms.errors import InputError

REQUIRED_IDENTITY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)
"""Every DICOM object carries these, though they may be empty."""

_OPTIONAL_IDENTITY = (
    "IssuerOfPatientID",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_SERIES = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_REFERENCE = ("SOPClassUID", "SOPInstanceUID")
# Where enhanced objects keep the geometry of a frame, and other files keep it at the top.
_GEOMETRY = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
}
_SHARED_GROUPS = "SharedFunctionalGroupsSequence"
_FRAME_GROUPS = "PerFrameFunctionalGroupsSequence"
_KEYWORDS = (
    *REQUIRED_IDENTITY,
    *_OPTIONAL_IDENTITY,
    *_SERIES,
    *_REFERENCE,
    *_GEOMETRY,
    *(_SHARED_GROUPS, _FRAME_GROUPS, "Modality", "Rows", "Columns"),
)


@dataclass(frozen=True)
class SourcePlane:
    """One slice: a file, or one frame of a file.

    Attributes:
        path: the file.
        frame: which frame, from 0; None in single-frame files.
        sop_class_uid: the kind of object.
        sop_instance_uid: the object.
        shape: (rows, columns).
        position: of the first pixel's centre, (3,) in mm, LPS+.
        orientation: along a row and down a column, (6,), LPS+.
        spacing: (between rows, between columns) in mm.
        thickness: SliceThickness in mm, None if unknown.
    """

    path: Path
    frame: int | None
    sop_class_uid: str
    sop_instance_uid: str
    shape: tuple[int, int]
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: NDArray[np.float64]
    thickness: float | None


@dataclass(frozen=True)
class SourceStack:
    """The slices of one series, in ascending order along their normal.

    Attributes:
        planes: the slices.
        modality: Modality of the series.
        series: StudyInstanceUID, SeriesInstanceUID and FrameOfReferenceUID by keyword.
        identity: what DICOM needs to know of patient and study, as the source says it.
    """

    planes: tuple[SourcePlane, ...]
    modality: str
    series: dict[str, str]
    identity: pydicom.Dataset

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """(X, Y, Z): columns, rows and slices."""
        rows, columns = self.planes[0].shape
        return columns, rows, len(self.planes)

    @property
    def gap(self) -> float | None:
        """Mean distance in mm between neighbouring slices, to the nanometre; None for one slice."""
        if len(self.planes) < 2:
            return None
        first, last = (self.height(self.planes[index].position) for index in (0, -1))
        return round((last - first) / (len(self.planes) - 1), 6)

    @property
    def thickness(self) -> float | None:
        """Of the slices in mm: SliceThickness, or else the distance that each stands for."""
        return self.planes[0].thickness or self.gap

    def height(self, position: NDArray[np.float64]) -> float:
        """Where a position, (3,) in mm, lies along the normal, in mm."""
        row, column = self.planes[0].orientation.reshape(2, 3)
        normal = np.cross(row, column)
        return float(position @ normal / np.linalg.norm(normal))


@contextmanager
def verbatim() -> Iterator[None]:
    """Takes the values of a source as they are, without warnings, which could quote the patient."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def read_stack(source_files: Sequence[Path], frames: Sequence[int] | None) -> SourceStack:
    """Read where the slices of a volume lie.

    Args:
        source_files: single-frame files in the order of the volume's slices, or one enhanced file.
        frames: of an enhanced file, the frames from 0 in the order of the slices; None for all, as
            stored.

    Returns:
        The slices, checked.

    Raises:
        InputError: if a file cannot be read, if the place of a slice is not known, or if the slices
            are not those of one series and grid in ascending order along their normal.
    """
    if not source_files:
        raise InputError(
            "source_files: expected the DICOM files that were read, found none. Name them in the "
            "order of the volume's slices."
        )
    headers = [(Path(path), _read(Path(path))) for path in source_files]
    if any(_FRAME_GROUPS in header for _, header in headers):
        planes = _enhanced_planes(headers, frames)
    elif frames is None:
        planes = [_plane(path, header, None) for path, header in headers]
    else:
        raise InputError(
            f"frames: expected None for single-frame files such as {headers[0][0]}, found "
            f"{list(frames)[:4]}. Name frames only of an enhanced file."
        )
    _require_one_series(headers)
    first = headers[0][1]
    identity = pydicom.Dataset()
    with verbatim():
        for keyword in (*REQUIRED_IDENTITY, *_OPTIONAL_IDENTITY):
            if keyword in first:
                identity.add(first[keyword])
    series = {keyword: str(first[keyword].value) for keyword in _SERIES}
    found = SourceStack(tuple(planes), str(first.get("Modality") or "OT"), series, identity)
    _require_one_grid(found)
    _require_ascending(found)
    return found


def _read(path: Path) -> pydicom.Dataset:
    try:
        with verbatim():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
            return _converted(path, header)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom raises whatever a damaged element leads to
        # The error's own text may quote the header, so only its kind is told.
        raise InputError(
            f"{path}: expected a readable DICOM image, but reading it failed "
            f"({type(error).__name__}). Name the files that the volume was read from."
        ) from error


def _converted(path: Path, header: pydicom.Dataset) -> pydicom.Dataset:
    """Converts all elements now, while warnings are held back, and requires the references."""
    for keyword in (*_SERIES, *_REFERENCE, "Rows", "Columns"):
        if not header.get(keyword):
            raise InputError(
                f"{path}: expected an image with {keyword}, found none, so that a DICOM result "
                "cannot refer to it or be placed. Save the result as NIfTI."
            )
    list(header.iterall())
    return header


def _enhanced_planes(
    headers: Sequence[tuple[Path, pydicom.Dataset]], frames: Sequence[int] | None
) -> list[SourcePlane]:
    path, header = headers[0]
    if len(headers) > 1:
        raise InputError(
            f"source_files: expected one enhanced file, or single-frame files only, found "
            f"{len(headers)} files with enhanced ones among them. Name one enhanced file."
        )
    count = len(header[_FRAME_GROUPS].value)
    chosen = range(count) if frames is None else [int(frame) for frame in frames]
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise InputError(
            f"frames: expected numbers from 0 to {count - 1} for the {count} frames of {path}, "
            f"found {list(chosen)[:4]}. Count frames from 0."
        )
    return [_plane(path, header, frame) for frame in chosen]


def _plane(path: Path, header: pydicom.Dataset, frame: int | None) -> SourcePlane:
    sizes = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
    vectors = [_numbers(header, frame, keyword) for keyword in sizes]
    where = path if frame is None else f"{path}, frame {frame}"
    for values, (keyword, size) in zip(vectors, sizes.items(), strict=True):
        if values.size != size or not np.isfinite(values).all():
            raise InputError(
                f"{where}: expected {keyword} of {size} numbers, found {values.size or 'none'}, so "
                "that a DICOM result cannot be placed. Save the result as NIfTI."
            )
    thickness = _numbers(header, frame, "SliceThickness")
    return SourcePlane(
        path=path,
        frame=frame,
        sop_class_uid=str(header.SOPClassUID),
        sop_instance_uid=str(header.SOPInstanceUID),
        shape=(int(header.Rows), int(header.Columns)),
        position=vectors[0],
        orientation=vectors[1],
        spacing=vectors[2],
        thickness=float(thickness[0]) if thickness.size == 1 and thickness[0] > 0 else None,
    )


def _numbers(header: pydicom.Dataset, frame: int | None, keyword: str) -> NDArray[np.float64]:
    """The numbers of an element of a slice, in double precision; none if it is missing."""
    value: Any = header.get(keyword)
    if frame is not None:
        for groups in (header[_FRAME_GROUPS].value[frame], *header.get(_SHARED_GROUPS, ())):
            items = groups.get(_GEOMETRY[keyword])
            if items and keyword in items[0]:
                value = items[0].get(keyword)
                break
    empty = value is None or value == ""
    return np.atleast_1d(np.asarray([] if empty else value, dtype=np.float64))


def _require_one_series(headers: Sequence[tuple[Path, pydicom.Dataset]]) -> None:
    for keyword in (*_SERIES, "Rows", "Columns"):
        values = [header[keyword].value for _, header in headers]
        other = next((index for index, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise InputError(
                f"source_files: expected one {keyword}, found {values[0]} in {headers[0][0]} but "
                f"{values[other]} in {headers[other][0]}. Name the slices of one volume."
            )


def _require_one_grid(stack: SourceStack) -> None:
    first = stack.planes[0]
    for plane in stack.planes:
        turned = np.abs(plane.orientation - first.orientation).max() > ORIENTATION_TOLERANCE
        if turned or np.abs(plane.spacing - first.spacing).max() > PIXEL_SPACING_TOLERANCE:
            raise InputError(
                f"source_files: expected parallel slices of one pixel spacing, found others in "
                f"{plane.path} than in {first.path}. Name the slices of one volume."
            )


def _require_ascending(stack: SourceStack) -> None:
    heights = [stack.height(plane.position) for plane in stack.planes]
    for index, step in enumerate(np.diff(heights)):
        if step <= 0:
            before, after = stack.planes[index : index + 2]
            raise InputError(
                "source_files: expected slices in ascending order along their normal, found a step "
                f"of {step:.3f} mm from {before.path} (frame {before.frame}) to {after.path} "
                f"(frame {after.frame}). Name the slices in the order of the volume."
            )

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

import numpy as np
import pydicom
from numpy.typing import NDArray

from transforms.dicom import Plane, differing, reading, single_frames, vector
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
_GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
_SHARED_GROUPS = "SharedFunctionalGroupsSequence"
_FRAME_GROUPS = "PerFrameFunctionalGroupsSequence"
_KEYWORDS = (
    *REQUIRED_IDENTITY,
    *_OPTIONAL_IDENTITY,
    *_SERIES,
    *_REFERENCE,
    *_GEOMETRY,
    *(_SHARED_GROUPS, _FRAME_GROUPS, "SliceThickness", "Modality", "Rows", "Columns"),
)


@dataclass(frozen=True)
class SourcePlane(Plane):
    """One slice: a file, or one frame of a file; see ``Plane`` for where it lies.

    Attributes:
        path: the file.
        frame: which frame, from 0; None in single-frame files.
        sop_class_uid: the kind of object.
        sop_instance_uid: the object.
        thickness: SliceThickness in mm, None if unknown.
    """

    path: Path
    frame: int | None
    sop_class_uid: str
    sop_instance_uid: str
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
        return float(position @ self.planes[0].normal)


@contextmanager
def verbatim() -> Iterator[None]:
    """Takes the values of a source as they are, without warnings, which could quote the patient."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


@verbatim()
def read_stack(
    source_files: Sequence[Path | str], frames: Sequence[int] | None = None
) -> SourceStack:
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
    for keyword in (*REQUIRED_IDENTITY, *_OPTIONAL_IDENTITY):
        if keyword in first:
            identity.add(first[keyword])
    series = {keyword: str(first[keyword].value) for keyword in _SERIES}
    found = SourceStack(tuple(planes), str(first.get("Modality") or "OT"), series, identity)
    _require_one_grid(found)
    _require_ascending(found)
    return found


def _read(path: Path) -> pydicom.Dataset:
    with reading(path):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
        for keyword in (*_SERIES, *_REFERENCE, "Rows", "Columns"):
            if not header.get(keyword):
                raise InputError(
                    f"{path}: expected an image with {keyword}, found none, so that a DICOM result "
                    "cannot refer to it or be placed. Save the result as NIfTI."
                )
        list(header.iterall())  # converts all elements now, while warnings are held back
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
    stored = single_frames(header)
    count = len(stored)
    chosen = range(count) if frames is None else [int(frame) for frame in frames]
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise InputError(
            f"frames: expected numbers from 0 to {count - 1} for the {count} frames of {path}, "
            f"found {list(chosen)[:4]}. Count frames from 0."
        )
    return [_plane(path, stored[frame], frame) for frame in chosen]


def _plane(path: Path, header: pydicom.Dataset, frame: int | None) -> SourcePlane:
    place = []
    for keyword, size in _GEOMETRY.items():
        values = vector(header, keyword, size)
        if values is None:
            where = path if frame is None else f"{path}, frame {frame}"
            raise InputError(
                f"{where}: expected {keyword} of {size} numbers, found none, so that a DICOM "
                "result cannot be placed. Save the result as NIfTI."
            )
        place.append(values)
    thickness = vector(header, "SliceThickness", 1)
    return SourcePlane(
        path=path,
        frame=frame,
        sop_class_uid=str(header.SOPClassUID),
        sop_instance_uid=str(header.SOPInstanceUID),
        shape=(int(header.Rows), int(header.Columns)),
        position=place[0],
        orientation=place[1].reshape(2, 3),
        spacing=place[2],
        thickness=None if thickness is None or thickness[0] <= 0 else float(thickness[0]),
    )


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
    _, others = differing(stack.planes)
    if others:
        raise InputError(
            "source_files: expected parallel slices of one pixel spacing, found others in "
            f"{others[0].path} than in {stack.planes[0].path}. Name the slices of one volume."
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

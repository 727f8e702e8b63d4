"""The DICOM series in a folder: which there are, and the files of one of them."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transforms.dicom.files import DicomObject, is_dicom, read_object
from transforms.dicom.image import image_of_file, volume_of
from transforms.errors import InputError

DICOM_SUFFIXES = (".dcm", ".dicom")

MAX_DEPTH = 8
"""Deepest level of subfolders that is searched; exports stay well above, link cycles do not."""

_MOST_NAMED = 20  # series in a message
_MOST_FILES = 2  # files of a series in a message


@dataclass(frozen=True)
class SeriesInfo:
    """One series of a folder. No free text of the header is kept, which may name a patient.

    Attributes:
        uid: SeriesInstanceUID, "" if the files have none or cannot be read at all.
        modality: such as CT or MR, "" if unknown.
        number: SeriesNumber, None if unknown.
        files: in the order of their paths.
        shape: (X, Y, Z) of a volume, (H, W) of a picture, () if it cannot be read.
        problem: why it cannot be read, "" if it can as far as headers tell.
    """

    uid: str
    modality: str
    number: int | None
    files: tuple[Path, ...]
    shape: tuple[int, ...]
    problem: str

    @property
    def count(self) -> int:
        """The number of files."""
        return len(self.files)

    @property
    def path(self) -> Path:
        """What to give to ``read_image`` beside ``series_uid``: the only file, or the folder."""
        if self.count == 1:
            return self.files[0]
        return Path(os.path.commonpath([path.parent for path in self.files]))

    def __str__(self) -> str:
        """In one line: UID, modality, number and files."""
        names = ", ".join(path.name for path in self.files[:_MOST_FILES])
        more = f" and {self.count - _MOST_FILES} more" if self.count > _MOST_FILES else ""
        numbered = "" if self.number is None else f", series {self.number}"
        return (
            f"{self.uid or 'no SeriesInstanceUID'} ({self.modality or 'modality unknown'}"
            f"{numbered}, {self.count} file{'s' * (self.count > 1)}: {names}{more})"
        )


def dicom_paths(folder: Path, recursive: bool = False, _depth: int = 0) -> Iterator[Path]:
    """The DICOM files in a folder, by name or content, without hidden ones and DICOMDIR.

    Args:
        folder: where to look; sorted by name.
        recursive: whether to look in subfolders too, as PACS exports have them.
    """
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
            continue
        if path.is_dir():
            if recursive and _depth < MAX_DEPTH and not _leads_back(path):
                yield from dicom_paths(path, True, _depth + 1)
        elif path.is_file() and (path.name.lower().endswith(DICOM_SUFFIXES) or is_dicom(path)):
            yield path


def _leads_back(path: Path) -> bool:
    """Whether a folder is a link to one that it lies in."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def holds_dicom(folder: Path, recursive: bool = False) -> bool:
    """Whether a folder holds DICOM files, by name or by content.

    Args:
        folder: where to look.
        recursive: whether files in subfolders count; otherwise only those directly in it.
    """
    return next(dicom_paths(folder, recursive), None) is not None


def list_series(folder: Path | str, recursive: bool = False) -> list[SeriesInfo]:
    """Tell what series a folder holds, by their headers.

    Args:
        folder: where to look.
        recursive: whether to look in subfolders too.

    Returns:
        The series in the order of their numbers and UIDs, those of segmentations, reports and
        damaged files included, with their ``problem``.

    Raises:
        InputError: if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder with DICOM files, found none. Check the path."
        )
    objects, damaged = [], []
    for path in dicom_paths(folder, recursive):
        try:
            objects.append(read_object(path))
        except InputError as error:
            damaged.append(SeriesInfo("", "", None, (path,), (), str(error)))
    found = [_checked_info(members) for members in _by_series(objects)]
    return sorted(found, key=lambda info: (info.number or 0, info.uid)) + damaged


def select_series(folder: Path, series_uid: str | None = None) -> list[DicomObject]:
    """The images of one series of a folder.

    Without a UID the images directly in the folder are taken, or, if there are none, those in its
    subfolders; with a UID those of the whole tree. Objects that are no images are passed over with
    a warning.

    Args:
        folder: with DICOM files in it or in its subfolders.
        series_uid: the series; None if there is only one.

    Raises:
        InputError: if a file is damaged, there is no image, there are several series but no UID,
            or no series has the UID.
    """
    objects = [] if series_uid else [read_object(path) for path in dicom_paths(folder)]
    if not any(item.is_image for item in objects):
        objects = [read_object(path) for path in dicom_paths(folder, recursive=True)]
    images = [item for item in objects if item.is_image]
    others = [item for item in objects if not item.is_image]
    if not images:
        raise InputError(
            f"{folder}: expected DICOM images, found {_kinds(others)} without images, e.g. "
            f"{others[0].problem}"
        )
    series = _by_series(images)
    if series_uid is None and len(series) > 1:
        raise InputError(
            f"{folder}: expected one series, found {len(series)}: {_list(series)}. Choose one by "
            "its UID (series_uid), or put each series into a folder of its own."
        )
    chosen = [one for one in series if series_uid in (None, one[0].series_uid)]
    if not chosen:
        raise InputError(
            f"series_uid: expected a series in {folder}, found no {series_uid} but {_list(series)}."
        )
    if others:
        warnings.warn(f"{folder}: passed over {_kinds(others)} that hold no image.", stacklevel=2)
    return chosen[0]


def _by_series(objects: Sequence[DicomObject]) -> list[list[DicomObject]]:
    series: dict[str, list[DicomObject]] = {}
    for item in objects:
        series.setdefault(item.series_uid, []).append(item)
    return list(series.values())


def _checked_info(members: Sequence[DicomObject]) -> SeriesInfo:
    images = [item for item in members if item.is_image]
    try:
        if not images:
            return _info(members, problem=members[0].problem)
        if len(images) == 1:
            return _info(members, image_of_file(images[0]).shape)
        place = Path(os.path.commonpath([item.path for item in members]))
        return _info(members, volume_of(place, images).shape)
    except InputError as error:
        return _info(members, problem=str(error))


def _info(
    members: Sequence[DicomObject], shape: tuple[int, ...] = (), problem: str = ""
) -> SeriesInfo:
    first = next((item for item in members if item.is_image), members[0])
    files = tuple(item.path for item in members)
    return SeriesInfo(first.series_uid, first.modality, first.series_number, files, shape, problem)


def _kinds(objects: Sequence[DicomObject]) -> str:
    kinds = Counter(item.modality or "modality unknown" for item in objects)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"{len(objects)} DICOM object{'s' * (len(objects) > 1)} ({listed})"


def _list(series: Sequence[Sequence[DicomObject]]) -> str:
    more = len(series) - _MOST_NAMED
    return "; ".join(str(_info(one)) for one in series[:_MOST_NAMED]) + (
        f"; and {more} more" if more > 0 else ""
    )

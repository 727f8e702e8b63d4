"""The images below a folder, and by name whatever else lies there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.data.layouts.files import (
    is_dicom,
    printable,
    problem_of,
    scan,
    shortened,
    suffix_of,
)
from transforms.dicom import MAX_DEPTH
from transforms.signals import LABELS_SUFFIX, is_signal


@dataclass(frozen=True)
class LeftOut:
    """Something in a folder that is not used.

    Attributes:
        name: its path within the folder, in characters that can be printed.
        reason: why, in a sentence.
    """

    name: str
    reason: str

    @classmethod
    def below(cls, root: Path, path: Path, reason: str) -> LeftOut:
        """Names a path as it lies below `root`."""
        return cls(printable(os.path.relpath(path, root)), reason)

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass
class Listing:
    """What lies below a folder.

    Attributes:
        root: the folder.
        images: files, and folders that stand for a DICOM series, sorted.
        left_out: everything else but hidden files.
    """

    root: Path
    images: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave(self, path: Path, reason: str) -> None:
        """Notes that a path is not used."""
        self.left_out.append(LeftOut.below(self.root, path, reason))


def list_images(folder: Path, series: bool = False) -> Listing:
    """Sorts what lies below a folder.

    A subfolder that directly holds DICOM files stands for one image, the series of these.

    Args:
        folder: where to look.
        series: whether DICOM files that lie in `folder` itself are such a series too; otherwise
            each is one image.
    """
    listing = Listing(folder)
    found: set[Path] = set()
    for path in _files(listing, folder, (_real(folder),)):
        try:
            dicom = is_dicom(path)
        except OSError as error:
            listing.leave(path, _unreadable(error))
            continue
        if dicom and (series or path.parent != folder):
            found.add(path.parent)
        elif dicom or suffix_of(path):
            found.add(path)
        else:
            listing.leave(path, _no_image(path))
    listing.images = sorted(found)
    listing.left_out.sort(key=lambda one: one.name)
    return listing


def find_images(folder: Path) -> list[Path]:
    """The images below a folder, see `list_images`."""
    return list_images(folder).images


def find_signals(folder: Path) -> list[Path]:
    """The signals below a folder, sorted; none where images lie too."""
    files = _files(Listing(folder), folder, (_real(folder),))
    return [] if any(map(suffix_of, files)) else sorted(filter(is_signal, files))


def list_signals(folder: Path) -> Listing:
    """Sorts what lies below a folder into signals and what is none; their own files go along."""
    listing = Listing(folder)
    files = _files(listing, folder, (_real(folder),))
    listing.images = sorted(filter(is_signal, files))
    records = {path.with_suffix("") for path in listing.images}
    for path in files:
        own = path.with_suffix("") in records or path.name.lower().endswith(LABELS_SUFFIX)
        if not own:
            listing.leave(path, "no signal by its name.")
    listing.left_out.sort(key=lambda one: one.name)
    return listing


def left_out_notes(listings: Iterable[Listing]) -> list[str]:
    """At most one note, on what several folders hold that is not used."""
    left = [one for listing in listings for one in listing.left_out]
    told = shortened(f"{one.name} ({one.reason.rstrip('.')})" for one in left)
    return [f"{len(left)} left out: {told}."] if left else []


def _files(listing: Listing, folder: Path, searched: Sequence[Path], depth: int = 0) -> list[Path]:
    """The files below a folder; `searched` are the real folders that are gone through."""
    try:
        entries = scan(folder)
    except OSError as error:
        listing.leave(folder, _unreadable(error))
        return []
    files = []
    for entry in entries:
        path = Path(entry.path)
        problem = problem_of(entry)
        if problem:
            listing.leave(path, problem)
        elif not entry.is_dir():
            files.append(path)
        else:
            real = [_real(path)] if entry.is_symlink() else []
            if any(_overlap(one, other) for one in real for other in searched):
                listing.leave(path, "a link to a folder that is searched anyway.")
            elif depth == MAX_DEPTH:
                listing.leave(path, f"a folder more than {MAX_DEPTH} levels down.")
            else:
                files += _files(listing, path, (*searched, *real), depth + 1)
    return files


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _unreadable(error: OSError) -> str:
    return f"it cannot be read ({error.strerror})."


def _no_image(path: Path) -> str:
    if path.name.upper() == "DICOMDIR":
        return "a DICOMDIR, which only lists files."
    return "no image by its name and content."

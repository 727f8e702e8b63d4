"""NIfTI copies of DICOM folders, which viewers can load and download as one file."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from pathlib import Path

from lib.images import require_readable, unreadable
from lib.records import stamp
from pipelines.outputs import write_volume
from transforms.errors import InputError
from transforms.readers import read_image

KEPT = 8
"""Copies that are kept, in the server's temporary folder, until newer ones take their place."""

SUFFIX = ".nii.gz"
_FOLDER = "copies"
_copying = threading.Lock()


def as_nifti(series: Path) -> Path:
    """The copy of a folder of one DICOM series, on the grid that inference uses.

    Raises:
        Refusal: 400 when the series cannot be read as a volume.
    """
    state = f"{series}{stamp(series)}"
    place = Path(tempfile.gettempdir()) / _FOLDER / hashlib.sha256(state.encode()).hexdigest()[:16]
    target = place / f"{series.name}{SUFFIX}"
    with _copying:
        if not target.is_file():
            _make_room(place.parent)
            _copy(series, target)
    return target


def _copy(series: Path, target: Path) -> None:
    require_readable(series)
    try:
        volume = read_image(series)
    except InputError as error:
        raise unreadable(error, series) from error
    write_volume(target, volume.numpy()[0], volume.affine.numpy(), {})


def _make_room(folder: Path) -> None:
    if folder.is_dir():
        oldest_last = sorted(folder.iterdir(), key=lambda one: -one.stat().st_mtime)
        for one in oldest_last[KEPT - 1 :]:
            shutil.rmtree(one, ignore_errors=True)

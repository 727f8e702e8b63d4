"""Sound files of every format, and what reading a damaged one comes to."""

import gzip
import io
import signal
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import nibabel as nib
import numpy as np
from PIL import Image
from pydicom.data import get_testdata_file

from tests.fuzz.mutations import MUTATIONS
from transforms.errors import InputError
from transforms.limits import set_limits
from transforms.readers import read_image

MOST_SECONDS = 10
"""That a file may take."""

DICOM = {
    "explicit.dcm": "MR_small.dcm",
    "implicit.dcm": "MR_small_implicit.dcm",
    "bigendian.dcm": "MR_small_bigendian.dcm",
    "rle.dcm": "MR_small_RLE.dcm",
    "deflated.dcm": "image_dfl.dcm",
}
"""Of pydicom's own test files."""


class TooSlow(Exception):
    """A file took longer than it may."""


@cache
def seeds() -> dict[str, bytes]:
    """Sound files by name."""
    source = np.random.default_rng(0)
    volume = source.integers(0, 4096, (12, 11, 10)).astype(np.int16)
    picture = source.integers(0, 256, (20, 24)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0])), folder / "a.nii")
        _save_itk(volume, folder)
        for suffix in ("png", "tif", "jpg"):
            Image.fromarray(picture).save(folder / f"a.{suffix}")
        Image.fromarray(picture.astype(np.uint16) * 257).save(folder / "deep.png")
        found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    found["a.nii.gz"] = gzip.compress(found["a.nii"], mtime=0)
    for name, file in DICOM.items():
        path = get_testdata_file(file, download=False)
        if path is not None:
            found[name] = Path(str(path)).read_bytes()
    return found


def _save_itk(volume: np.ndarray[Any, Any], folder: Path) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(volume)
    for suffix in ("nrrd", "mha"):
        sitk.WriteImage(image, folder / f"raw.{suffix}", useCompression=False)
        sitk.WriteImage(image, folder / f"packed.{suffix}", useCompression=True)


def kinds() -> list[tuple[str, str]]:
    """Every change of every file."""
    return [(name, mutation) for name in seeds() for mutation in MUTATIONS]


def check(name: str, mutation: str, number: int, folder: Path) -> str:
    """Reads a file gone wrong: what that comes to."""
    path = folder / name
    path.write_bytes(damaged(name, mutation, number))
    return outcome(path)


def damaged(name: str, mutation: str, number: int) -> bytes:
    """A sound file gone wrong; the same for the same number."""
    source = np.random.default_rng([number, *name.encode(), *mutation.encode()])
    return MUTATIONS[mutation](seeds()[name], source)


def outcome(path: Path) -> str:
    """Reads a file: ``refused``, ``accepted``, or what is wrong with how it was taken."""
    set_limits(seconds=MOST_SECONDS - 2)
    try:
        with _limited(), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            image = read_image(path)
    except InputError as error:
        return "refused" if path.name in str(error) else "refused without its name"
    except Exception as error:  # what is looked for
        return f"{type(error).__name__}: {error}"
    finally:
        set_limits()
    if not np.isfinite(image.numpy()).all() or not np.isfinite(image.affine.numpy()).all():
        return "accepted values that are not finite"
    check = CHECKS.get("".join(path.suffixes[-2:]), CHECKS.get(path.suffix))
    if check is not None and not told and not check(path.read_bytes()):
        return "accepted although its checksum is wrong"
    return "accepted"


@contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise TooSlow(f"more than {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _gzip_holds(content: bytes) -> bool:
    try:
        gzip.decompress(content)
    except (OSError, EOFError, zlib.error, struct.error):
        return False
    return True


def _png_holds(content: bytes) -> bool:
    stream = io.BytesIO(content[8:])
    while start := stream.read(8):
        if len(start) < 8:
            return False
        size, kind = struct.unpack(">I4s", start)
        data, crc = stream.read(size), stream.read(4)
        if len(data) < size or crc != struct.pack(">I", zlib.crc32(kind + data)):
            return False
        if kind == b"IEND":
            return True
    return False


CHECKS: dict[str, Callable[[bytes], bool]] = {".nii.gz": _gzip_holds, ".png": _png_holds}
"""Whether a file's own checksums hold, told by other code than the readers'."""

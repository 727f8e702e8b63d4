"""Images of the datastore and of clients: which there are, and which are safe to read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from PIL import Image

from lib.guard import Refusal
from transforms.dicom import is_dicom
from transforms.errors import InputError
from transforms.readers import PICTURE_SUFFIXES

NIFTI = (".nii.gz", ".nii")
LABEL_SUFFIXES = (*NIFTI, ".seg.nrrd", ".nrrd", ".png")
IMAGE_SUFFIXES = (*NIFTI, ".nrrd", ".dcm", *PICTURE_SUFFIXES)
"""Suffixes of single files; a study may also be a folder that holds one DICOM series."""

MAX_VOXELS = 2**30
"""Largest image that is read: 4 GiB as 32-bit numbers."""

_LONGEST_HEADER = 1 << 20
_DICOM_SIZE = ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"]


def require_readable(path: Path) -> None:
    """Looks at a file before the bundle's readers do.

    Args:
        path: the image, or the folder of a DICOM series.

    Raises:
        Refusal: 400 when it says that it is too large, or is an NRRD whose voxels are elsewhere.
    """
    name = path.name.lower()
    if path.is_dir():
        files = list(files_below(path))
        if any(one.is_symlink() for one in files):
            raise Refusal(400, "image: the folder of the series holds a link; copy the files.")
        _require_size(sum(_voxels(one, ".dcm") for one in files))
    else:
        if name.endswith(".nrrd"):
            _require_attached_data(path)
        _require_size(_voxels(path, name))


def unreadable(error: InputError, path: Path) -> Refusal:
    """What a client gets to know when our readers refuse a study: the reason without its place."""
    reason = str(error).replace(str(path), "the study").replace(f"{path.parent}/", "")
    return Refusal(400, f"image: {reason}")


def files_below(folder: Path) -> Iterator[Path]:
    """The files and links in a folder and its subfolders, but for hidden ones; in order."""
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in links)
        for name in sorted([*names, *links]):
            if name[0] != "." and name != "DICOMDIR":
                yield Path(place, name)


def holds_dicom(folder: Path) -> bool:
    """Whether one of the first files in a folder and its subfolders is DICOM."""
    return any(is_dicom(one) for one in islice(files_below(folder), 3) if one.is_file())


def is_empty_label(path: Path) -> bool | None:
    """Whether a label map marks nothing; None when it cannot be read."""
    try:
        if path.name.endswith(NIFTI):
            return not nib.Nifti1Image.from_filename(path).get_fdata(caching="unchanged").any()
        if path.suffix == ".bin":
            return not np.fromfile(path, np.uint8).any()
        if path.suffix == ".nrrd":
            _require_attached_data(path)
        return not sitk.GetArrayViewFromImage(sitk.ReadImage(str(path))).any()
    except Exception:  # a label that cannot be read says nothing about the study
        return None


def _require_size(voxels: float) -> None:
    if voxels > MAX_VOXELS:
        raise Refusal(400, f"image: {voxels:.3g} voxels are more than the {MAX_VOXELS} accepted.")


def _voxels(path: Path, name: str) -> float:
    """As a float, which a hostile header cannot overflow."""
    try:
        return math.prod(map(float, _shape(path, name)))
    except Image.DecompressionBombError:
        return math.inf
    except Exception:  # the bundle's reader says what is wrong with the file
        return 0.0


def _shape(path: Path, name: str) -> Sequence[int]:
    """What the header of a file says that is to be read as one of this name."""
    if name.endswith(PICTURE_SUFFIXES):
        with Image.open(path) as picture:
            return picture.size
    if name.endswith(NIFTI):
        return tuple(nib.Nifti1Image.from_filename(path).shape)
    if name.endswith(".nrrd"):
        reader: Any = sitk.ImageFileReader()  # type: ignore[no-untyped-call]
        reader.SetImageIO("NrrdImageIO")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        return tuple(reader.GetSize())
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_DICOM_SIZE)
    return [int(header.get(one) or 1) for one in _DICOM_SIZE]


def _require_attached_data(path: Path) -> None:
    """An NRRD header may name any file of this machine as its data."""
    with path.open("rb") as stream:
        header = stream.read(_LONGEST_HEADER)
    lines = header.replace(b"\r\n", b"\n").split(b"\n\n", 1)[0].split(b"\n")
    if not lines[0].startswith(b"NRRD"):
        raise Refusal(400, "image: expected an NRRD file, found another format.")
    for line in lines:
        field = line.split(b":", 1)[0].strip().lower().replace(b" ", b"")
        if field == b"datafile":
            raise Refusal(400, "image: the NRRD's voxels must be in the file itself.")

"""Images of the datastore and of clients: which there are, and which are safe to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from lib.guard import Refusal

NIFTI = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
IMAGE_SUFFIXES = (*NIFTI, ".nrrd", ".dcm", *PICTURES)
"""Suffixes of single files; a study may also be a folder that holds one DICOM series."""

MAX_VOXELS = 2**30
"""Largest image that is read: 4 GiB as 32-bit numbers."""

_LONGEST_HEADER = 1 << 20


def require_readable(path: Path) -> None:
    """Looks at a file before the bundle's readers do.

    Args:
        path: the image, or the folder of a DICOM series.

    Raises:
        Refusal: 400 when it is too large, or an NRRD whose voxels are elsewhere.
    """
    name = path.name.lower()
    if path.is_dir():
        _require_plain_files(path)
    elif name.endswith(NIFTI):
        _require_size(_nifti_voxels(path))
    elif name.endswith(".nrrd"):
        _require_attached_data(path)
        _require_size(_nrrd_voxels(path))


def holds_dicom(folder: Path) -> bool:
    """Whether the first files of a folder are DICOM."""
    files = sorted(one for one in folder.iterdir() if one.is_file() and one.name[0] != ".")
    return any(one.name != "DICOMDIR" and _is_dicom(one) for one in files[:3])


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


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _require_plain_files(folder: Path) -> None:
    for one in folder.iterdir():
        if one.is_symlink():
            raise Refusal(400, "image: the folder of the series holds a link; copy the files.")


def _require_size(voxels: float) -> None:
    if voxels > MAX_VOXELS:
        raise Refusal(400, f"image: {voxels:.3g} voxels are more than the {MAX_VOXELS} accepted.")


def _product(sides: Sequence[int]) -> float:
    """As a float, which a hostile header cannot overflow."""
    return float(math.prod([1.0, *map(float, sides)]))


def _nifti_voxels(path: Path) -> float:
    try:
        return _product(nib.Nifti1Image.from_filename(path).shape)
    except Exception:  # the bundle's reader says what is wrong with the file
        return 0.0


def _nrrd_voxels(path: Path) -> float:
    reader: Any = sitk.ImageFileReader()  # type: ignore[no-untyped-call]
    try:
        reader.SetImageIO("NrrdImageIO")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        return _product(reader.GetSize())
    except RuntimeError:  # the bundle's reader says what is wrong with the file
        return 0.0


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

"""NRRD and MetaImage volumes, with the geometry that SimpleITK tells."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils.module import optional_import

from transforms.compressed import read_values
from transforms.errors import InputError
from transforms.itk_header import ItkHeader, read_header

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")

_READ_SPACE = "left-posterior-superior"  # what SimpleITK turns every anatomical NRRD space into

Array = np.ndarray[Any, Any]


def read_itk(path: Path) -> tuple[Array, Array | None]:
    """Read one NRRD or MetaImage file: a volume, or a picture if it has two dimensions.

    SimpleITK counts in mm towards the patient's left and back; the affine counts towards the right
    and front (RAS+), as MONAI's do. An NRRD file without an anatomical space gives no orientation:
    that is warned of, and its axes are taken as pointing to the left, back and head.

    Returns:
        (X, Y, Z), or (X, Y, Z, channels), in stored order, and the affine, 4 x 4 in mm; or
        (H, W), or (H, W, channels), with rows as rows, and None.

    Raises:
        InputError: for other numbers of dimensions, or a damaged file.
    """
    header = read_header(path)
    geometry = _geometry(path, header)
    content = read_values(header.data, header.start, header.size, header.compressed)
    values: Array = np.ndarray(header.sizes[::-1], header.dtype, content)
    dimension, vectors = geometry.GetDimension(), header.components is not None
    if header.components is not None:
        values = np.moveaxis(values, -1 - header.components, -1)
    shape = (*geometry.GetSize()[::-1], *([geometry.GetNumberOfComponents()] * vectors))
    if values.shape != shape or dimension not in (2, 3, 4) or (dimension == 4 and vectors):
        raise InputError(
            f"{path}: expected a picture (X, Y), a volume (X, Y, Z) or volumes with channels, "
            f"found axes of sizes {header.sizes}. Save one volume."
        )
    if dimension == 2:
        return values, None
    if dimension == 4:  # the channels are the fourth axis
        return values.T, _affine(geometry)
    return values.transpose(2, 1, 0, *([3] * vectors)), _affine(geometry)


def _geometry(path: Path, header: ItkHeader) -> Any:
    """SimpleITK's reader, which has read a header."""
    sitk, _ = optional_import("SimpleITK")
    reader = sitk.ImageFileReader()
    with tempfile.TemporaryDirectory() as folder:
        written = header.write(Path(folder))
        nrrd = written.suffix == ".nrrd"
        reader.SetImageIO("NrrdImageIO" if nrrd else "MetaImageIO")
        reader.SetFileName(str(written))
        reader.ReadImageInformation()
    space = reader.GetMetaData("NRRD_space") if reader.HasMetaDataKey("NRRD_space") else ""
    if nrrd and space != _READ_SPACE and reader.GetDimension() > 2:
        warnings.warn(
            f"{path}: the header gives no anatomical space (found {space or 'none'}), "
            "so left and right are a guess: the voxels are taken as stored towards the left, "
            "the back and the head.",
            stacklevel=2,
        )
    return reader


def _affine(geometry: Any) -> Array:
    """Voxel indices to mm in RAS+, float64 4 x 4, of the first three axes."""
    size = geometry.GetDimension()
    directions = np.asarray(geometry.GetDirection()).reshape(size, size)
    affine = np.eye(4)
    affine[:3, :3] = directions[:3, :3] * np.asarray(geometry.GetSpacing()[:3])
    affine[:3, 3] = geometry.GetOrigin()[:3]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

"""NRRD and MetaImage volumes: a MONAI reader, with the geometry that SimpleITK tells."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.config.type_definitions import PathLike
from monai.data.image_reader import ImageReader
from monai.utils.enums import MetaKeys, SpaceKeys
from monai.utils.misc import ensure_tuple
from monai.utils.module import optional_import

from transforms.compressed import read_values
from transforms.errors import InputError
from transforms.itk_header import ItkHeader, read_header

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")

_READ_SPACE = "left-posterior-superior"  # what SimpleITK turns every anatomical NRRD space into
_PICTURE_TYPES = ("u1", "i1", "u2", "i2")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ItkImage:
    """A file's values and geometry.

    Attributes:
        values: in NumPy's order, the last axis of the file first and components last.
        vectors: whether there are several components.
        affine: 4 x 4, voxel indices of the first three axes to mm in RAS+; of volumes.
    """

    values: Array
    vectors: bool
    affine: Array

    @property
    def dimension(self) -> int:
        """How many axes there are, components aside."""
        return self.values.ndim - self.vectors


class ItkReader(ImageReader):
    """Read one NRRD or MetaImage file: a volume, or a picture if it has two dimensions.

    SimpleITK counts in mm towards the patient's left and back; the affine counts towards the right
    and front (RAS+), as MONAI's do. An NRRD file without an anatomical space gives no orientation:
    that is warned of, and its axes are taken as pointing to the left, back and head.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether the name ends like one of these files'."""
        return all(str(name).lower().endswith(ITK_SUFFIXES) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> ItkImage:
        """Read one file.

        Args:
            data: the file, or a sequence of one file, as MONAI's ``LoadImage`` passes it.
            kwargs: not used.

        Returns:
            An image of two to four dimensions.

        Raises:
            InputError: for several files, other numbers of dimensions, or a damaged file.
        """
        paths = ensure_tuple(data)
        if len(paths) != 1:
            raise InputError(f"ItkReader: expected one file, found {len(paths)}.")
        path = Path(paths[0])
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
        return ItkImage(values, vectors, _affine(geometry) if dimension > 2 else np.eye(4))

    def get_data(self, img: ItkImage) -> tuple[Array, dict[str, Any]]:
        """The values and what is known of them, as MONAI's readers return it.

        Args:
            img: what ``read`` returned.

        Returns:
            (X, Y, Z), or (X, Y, Z, channels), in stored order, with ``affine`` in mm, RAS+; or
            (H, W), or (H, W, channels), with rows as rows, the identity and ``bit_depth``: 8 for
            unsigned 8-bit values, 16 for other 8- and 16-bit ones, and None for the rest.
        """
        array = img.values
        meta: dict[str, Any] = {
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1
            if img.vectors or img.dimension == 4
            else float("nan"),
        }
        if img.dimension == 2:
            depth = {"u1": 8}.get(array.dtype.str[1:], 16)
            meta["bit_depth"] = depth if array.dtype.str[1:] in _PICTURE_TYPES else None
        elif img.dimension == 3:
            array = array.transpose(2, 1, 0, *([3] if img.vectors else []))
        else:  # the channels are the fourth axis
            array = array.T
        spatial = array.shape[: min(img.dimension, 3)]
        meta |= {
            MetaKeys.AFFINE: img.affine,
            MetaKeys.ORIGINAL_AFFINE: img.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(spatial),
        }
        return array, meta


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

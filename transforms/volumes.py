"""NRRD and MetaImage volumes: a MONAI reader by SimpleITK."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config.type_definitions import PathLike
from monai.data.image_reader import ImageReader
from monai.utils.enums import MetaKeys, SpaceKeys
from monai.utils.misc import ensure_tuple

from transforms.compressed import require_intact
from transforms.decoder import Decoded, decode
from transforms.errors import InputError
from transforms.itk_header import read_header

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")

_IMAGE_IO = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO"}
_READ_SPACE = "left-posterior-superior"  # what SimpleITK turns every anatomical NRRD space into
_PICTURE_TYPES = ("u1", "i1", "u2", "i2")

Array = np.ndarray[Any, Any]


class SimpleItkReader(ImageReader):
    """Read one NRRD or MetaImage file: a volume, or a picture if it has two dimensions.

    SimpleITK counts in mm towards the patient's left and back; the affine counts towards the right
    and front (RAS+), as MONAI's do. An NRRD file without an anatomical space gives no orientation:
    that is warned of, and its axes are taken as pointing to the left, back and head.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether the name ends like one of these files'."""
        return all(str(name).lower().endswith(ITK_SUFFIXES) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Decoded:
        """Decode one file.

        Args:
            data: the file, or a sequence of one file, as MONAI's ``LoadImage`` passes it.
            kwargs: not used.

        Returns:
            An image of two to four dimensions.

        Raises:
            InputError: for several files, or other numbers of dimensions.
        """
        paths = ensure_tuple(data)
        if len(paths) != 1:
            raise InputError(f"SimpleItkReader: expected one file, found {len(paths)}.")
        path = Path(paths[0])
        image_io = _IMAGE_IO.get(path.suffix.lower(), "MetaImageIO")
        header = read_header(path)
        with tempfile.TemporaryDirectory() as folder:
            image = decode(path, header.write(Path(folder)), image_io)
        if header.compressed:
            require_intact(header.data, header.start, image.values)
        dimension = len(image.spacing)
        if dimension not in (2, 3, 4) or (dimension == 4 and image.vectors):
            raise InputError(
                f"{path}: expected a picture (X, Y), a volume (X, Y, Z) or volumes with channels, "
                f"found values of shape {image.values.shape[::-1]}. Save one volume."
            )
        if image_io == "NrrdImageIO" and image.space != _READ_SPACE and dimension > 2:
            warnings.warn(
                f"{path}: the header gives no anatomical space (found {image.space or 'none'}), "
                "so left and right are a guess: the voxels are taken as stored towards the left, "
                "the back and the head.",
                stacklevel=2,
            )
        return image

    def get_data(self, img: Decoded) -> tuple[Array, dict[str, Any]]:
        """The values and what is known of them, as MONAI's readers return it.

        Args:
            img: what ``read`` returned.

        Returns:
            (X, Y, Z), or (X, Y, Z, channels), in stored order, with ``affine`` in mm, RAS+; or
            (H, W), or (H, W, channels), with rows as rows, the identity and ``bit_depth``: 8 for
            unsigned 8-bit values, 16 for other 8- and 16-bit ones, and None for the rest.
        """
        array, dimension, vectors = img.values, len(img.spacing), img.vectors
        meta: dict[str, Any] = {
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if vectors or dimension == 4 else float("nan"),
        }
        if dimension == 2:
            depth = {"u1": 8}.get(array.dtype.str[1:], 16)
            meta["bit_depth"] = depth if array.dtype.str[1:] in _PICTURE_TYPES else None
            affine = np.eye(4)
        else:
            # NumPy's order is reversed: channels of a fourth axis first, components last.
            array = (
                array.transpose(2, 1, 0, *([3] if vectors else [])) if dimension == 3 else array.T
            )
            affine = _affine(img)
        spatial = array.shape[: min(dimension, 3)]
        meta |= {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(spatial),
        }
        return array, meta


def _affine(image: Decoded) -> Array:
    """Voxel indices to mm in RAS+, float64 4 x 4, of the first three axes."""
    size = len(image.spacing)
    directions = np.asarray(image.direction).reshape(size, size)
    affine = np.eye(4)
    affine[:3, :3] = directions[:3, :3] * np.asarray(image.spacing[:3])
    affine[:3, 3] = image.origin[:3]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

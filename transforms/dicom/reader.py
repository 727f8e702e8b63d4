"""DICOM to arrays: a MONAI reader for a file or for one series in a folder.

What would have to be guessed is refused; see ``transforms.dicom.files`` for files,
``transforms.dicom.frames`` for multi-frame objects, ``transforms.dicom.series`` for folders and
``transforms.dicom.stack`` for the order and the geometry of slices.

Values are the stored ones times RescaleSlope plus RescaleIntercept, slice by slice. Windows (VOI
LUT) are told, not applied; overlays and padding values are neither. MONOCHROME1, where high values
are dark, is inverted within the range that BitsStored can hold, stored -> lowest + highest -
stored, before rescaling, so that high values are bright everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config.type_definitions import PathLike
from monai.data.image_reader import ImageReader
from monai.utils.enums import MetaKeys, SpaceKeys
from monai.utils.misc import ensure_tuple

from transforms.dicom.files import is_dicom, read_object
from transforms.dicom.header import Array
from transforms.dicom.image import DicomImage, image_of_file, volume_of
from transforms.dicom.series import (
    DICOM_SUFFIXES,
    holds_dicom,
    select_series,
)
from transforms.errors import InputError


class DicomReader(ImageReader):
    """Read a DICOM file, or the slices of one series in a folder.

    Unlike MONAI's ``PydicomReader`` and ``ITKReader`` it refuses, with the reason, what is no
    evenly spaced, upright volume: missing slices, several time points, a tilted gantry, mosaics.
    pydicom reads the headers, which select and refuse; SimpleITK decodes.

    A file of one frame is a picture, a multi-frame file or a folder is a volume. A folder with a
    single slice is refused, as it is probably incomplete. In a folder hidden files and files that
    are not DICOM are passed over; names and numbers play no part in the order of the slices.

    Args:
        series_uid: SeriesInstanceUID of the series to read, needed where a folder holds several.
    """

    def __init__(self, series_uid: str | None = None) -> None:
        """Keep the option; see the class."""
        super().__init__()
        self.series_uid = series_uid

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether all are DICOM files by name or content, or folders that hold some."""
        paths = [Path(name) for name in ensure_tuple(filename)]
        return all(
            holds_dicom(path, recursive=True)
            if path.is_dir()
            else path.name.lower().endswith(DICOM_SUFFIXES) or (path.is_file() and is_dicom(path))
            for path in paths
        )

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> DicomImage:
        """Read the headers of one image and put them in order.

        Args:
            data: a file or folder, or a sequence of one, as MONAI's ``LoadImage`` passes it.
            kwargs: not used.

        Returns:
            The image, not decoded yet.

        Raises:
            InputError: if a file cannot be read, is not an image of 8 or 16 bits, or if the
                slices or frames do not form one evenly spaced, upright stack.
        """
        paths = ensure_tuple(data)
        if len(paths) != 1:
            raise InputError(
                f"DicomReader: expected one file or folder, found {len(paths)}. Put the slices of "
                "a volume into a folder and name that."
            )
        path = Path(paths[0])
        if path.is_dir():
            return volume_of(path, select_series(path, self.series_uid))
        item = read_object(path)
        if self.series_uid not in (None, item.series_uid):
            raise InputError(
                f"{path}: expected a file of the series {self.series_uid}, found "
                f"{item.series_uid or 'no SeriesInstanceUID'}. Correct series_uid or leave it out."
            )
        return image_of_file(item)

    def get_data(self, img: DicomImage) -> tuple[Array, dict[str, Any]]:
        """The values and what is known of them, as MONAI's readers return it.

        Args:
            img: what ``read`` returned.

        Returns:
            (H, W), or (H, W, 3) for colour, with rows as rows, or (X, Y, Z) with X along the rows
            (columns counted), Y down the columns and Z along the normal; and the meta data:
            ``affine`` in mm, RAS+ (the identity for pictures), and those of ``DicomImage.meta``.

        Raises:
            InputError: if the pixels cannot be decoded.
        """
        values = img.values()
        affine = np.eye(4) if img.affine is None else img.affine
        return values, {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(img.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if values.shape != img.shape else float("nan"),
            **img.meta(),
        }

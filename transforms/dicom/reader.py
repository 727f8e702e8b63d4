"""DICOM to arrays: a file, or one series in a folder.

What would have to be guessed is refused; see ``transforms.dicom.files`` for files,
``transforms.dicom.frames`` for multi-frame objects, ``transforms.dicom.series`` for folders and
``transforms.dicom.stack`` for the order and the geometry of slices.

Values are the stored ones times RescaleSlope plus RescaleIntercept, slice by slice. Windows (VOI
LUT) are told, not applied; overlays and padding values are neither. MONOCHROME1, where high values
are dark, is inverted within the range that BitsStored can hold, stored -> lowest + highest -
stored, before rescaling, so that high values are bright everywhere.
"""

from __future__ import annotations

from pathlib import Path

from transforms.dicom.files import read_object
from transforms.dicom.image import DicomImage, image_of_file, volume_of
from transforms.dicom.series import select_series
from transforms.errors import InputError


def read_dicom(path: Path, series_uid: str | None = None) -> DicomImage:
    """Read the headers of one image, and put the slices of a series in a folder in order.

    Unlike MONAI's ``PydicomReader`` and ``ITKReader`` it refuses, with the reason, what is no
    evenly spaced, upright volume: missing slices, several time points, a tilted gantry, mosaics.
    pydicom reads the headers, which select and refuse; SimpleITK decodes.

    A file of one frame is a picture, a multi-frame file or a folder is a volume. A folder with a
    single slice is refused, as it is probably incomplete. In a folder hidden files and files that
    are not DICOM are passed over; names and numbers play no part in the order of the slices.

    Args:
        path: a file or folder.
        series_uid: SeriesInstanceUID of the series to read, needed where a folder holds several.

    Returns:
        The image, not decoded yet.

    Raises:
        InputError: if a file cannot be read, is not an image of 8 or 16 bits, or if the slices or
            frames do not form one evenly spaced, upright stack.
    """
    if path.is_dir():
        return volume_of(path, select_series(path, series_uid))
    item = read_object(path)
    if series_uid not in (None, item.series_uid):
        raise InputError(
            f"{path}: expected a file of the series {series_uid}, found "
            f"{item.series_uid or 'no SeriesInstanceUID'}. Correct series_uid or leave it out."
        )
    return image_of_file(item)

"""Files to MetaTensors: pictures, volumes and DICOM, channel first.

Pictures (PNG, JPEG, TIFF) come as ``(C, H, W)`` with H the rows from top to bottom, volumes (NIfTI,
NRRD, MetaImage) as ``(C, X, Y, Z)`` in the order in which the file stores them, with the file's
affine (float64, mm, RAS+). Nothing is scaled or re-oriented here, and no bit of depth is lost.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from transforms.decoder import stop_decoder
from transforms.dicom import DICOM_SUFFIXES, holds_dicom, is_dicom, read_dicom
from transforms.errors import InputError
from transforms.limits import in_time
from transforms.nifti import KEPT_FIELDS, NIFTI_SUFFIXES, read_nifti
from transforms.pictures import PICTURE_SUFFIXES, read_picture
from transforms.resample import AFFINE_TOLERANCE, resample_onto
from transforms.volumes import ITK_SUFFIXES, read_itk

VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)

_ASK_TO_RESAMPLE = (
    "If they show the patient in one position, ask for resampling onto the first file "
    "(--resample true; in Python resample=True)."
)

_Content = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Mapping[str, Any]]
"""Values, affine and further meta data, as ``_meta_tensor`` takes them."""


def read_image(path: Path | str, series_uid: str | None = None) -> MetaTensor:
    """Read one picture or one volume.

    Args:
        path: a PNG, JPEG or TIFF picture of 8 or 16 bits; a NIfTI, NRRD or MetaImage volume (3-D,
            or 4-D with the channels last; 2-D NRRD and MetaImage files are pictures); a DICOM
            file of one frame (a picture) or several (a volume), or a folder that holds the DICOM
            slices of a series, itself or in subfolders (a volume; see ``transforms.dicom.reader``).
        series_uid: the DICOM series to read where a folder holds several; see ``list_series``.

    Returns:
        float32 of shape (C, H, W) or (C, X, Y, Z) with the values of the file. ``meta`` holds
        plain values; ``meta["bit_depth"]`` (8 or 16) for pictures only, and for DICOM what
        ``DicomImage.meta`` lists. ``affine`` is float64 in mm; it is the identity for pictures,
        whose pixel size is unknown.

    Raises:
        InputError: if the file is missing, empty, damaged or of another kind, or if its values
            are not finite or all the same.
    """
    image = _read(Path(path), series_uid)
    lowest, highest = _finite_extremes(path, image)
    if lowest == highest:
        raise InputError(
            f"{path}: expected an image, found the value {float(lowest):g} everywhere. "
            "Leave this file out or export it again."
        )
    return image


def picture_range(meta: Mapping[str, Any]) -> tuple[float, float]:
    """Lowest and highest value that a picture's bit depth can hold.

    Args:
        meta: the ``meta`` of what ``read_image`` returned for a picture.

    Returns:
        (0, 255) or (0, 65535).

    Raises:
        InputError: if the bit depth is not known, as for volumes.
    """
    bits = meta.get("bit_depth")
    if bits not in (8, 16):
        raise InputError(
            f"{meta.get('filename_or_obj', 'image')}: expected a picture of 8 or 16 bits, found "
            f"bit depth {bits}. Use the intensity method 'zscore' for volumes."
        )
    return 0.0, float(2**bits - 1)


def all_finite(values: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite, told by the extremes, for which nothing is copied."""
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(values))


def read_case(
    images: Sequence[Path | str] | Path | str,
    channels: Sequence[int] | None = None,
    *,
    resample: bool = False,
    series_uid: str | None = None,
) -> MetaTensor:
    """Read the files of one case, e.g. its modalities, as the channels of one image.

    Args:
        images: the files, on one grid; their channels are joined in this order.
        channels: indices into the joined channels; None takes all.
        resample: whether files on another grid are resampled onto that of the first, linearly and
            without registering them; otherwise they are refused.
        series_uid: see ``read_image``; for cases of one file.

    Returns:
        float32 of shape (C, H, W) or (C, X, Y, Z) with the meta data of the first file, except
        that ``modality`` names those of all files, and windows of several files are left out.

    Raises:
        InputError: if a file cannot be read, if two files differ in grid and are not to be
            resampled or cannot be, or if a channel does not exist.
    """
    paths = [images] if isinstance(images, (str, Path)) else list(images)
    if not paths:
        raise InputError("images: expected at least one file, found none.")
    parts = [read_image(path, series_uid) for path in paths]
    if resample:
        first, *rest = parts
        parts = [first, *(resample_onto(part, first) for part in rest)]
    for path, part in zip(paths[1:], parts[1:], strict=True):
        _require_same_grid(paths[0], parts[0], path, part, remedy=_ASK_TO_RESAMPLE)
        if part.meta.get("bit_depth") != parts[0].meta.get("bit_depth"):
            raise InputError(
                f"{path} has {part.meta.get('bit_depth')} bits but {paths[0]} has "
                f"{parts[0].meta.get('bit_depth')}: export the pictures of a case alike."
            )
    joined = torch.cat([part.as_tensor() for part in parts]) if len(parts) > 1 else parts[0]
    if channels is not None:
        joined = joined[_checked_channels(channels, len(joined), paths)]
    return MetaTensor(joined, meta=_joined_meta(parts))


def read_mask(path: Path | str, image: MetaTensor) -> MetaTensor:
    """Read a lesion mask: whatever is not zero is lesion.

    Args:
        path: a PNG, TIFF or NIfTI file; one whose colours mark lesions counts any colour.
        image: the image (C, ...) that the mask belongs to.

    Returns:
        uint8 of shape (1, H, W) or (1, X, Y, Z), values 0 and 1, with the image's affine.

    Raises:
        InputError: if the file cannot be read or lies on another grid than the image.
    """
    path = Path(path)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise InputError(
            f"{path}: expected a lossless mask, found a JPEG, whose compression leaves non-zero "
            "pixels around every lesion. Save the mask as PNG."
        )
    mask = _read(path)
    _finite_extremes(path, mask)
    if mask.ndim == 4 and len(mask) > 1:
        raise InputError(
            f"{path}: expected a mask of one channel, found {len(mask)}. Save one volume in which "
            "every lesion voxel is non-zero."
        )
    _require_same_grid(image.meta.get("filename_or_obj", "image"), image, path, mask)
    lesion = (mask.as_tensor() != 0).any(dim=0, keepdim=True).to(torch.uint8)
    return MetaTensor(lesion, meta={**mask.meta, "affine": image.affine.clone()})


def _read(path: Path, series_uid: str | None = None) -> MetaTensor:
    """Read any supported file as float32, channel first.

    Tensors are made out here: in a thread of its own, torch would start a second set of threads,
    and where these are more than the processors, all its work slows down from then on.
    """
    reader = _reader_of(path)
    if reader is _read_dicom:
        reader = partial(_read_dicom, series_uid=series_uid)
    elif series_uid is not None:
        raise InputError(
            f"series_uid: expected DICOM files, found {path}. Leave the option out for other files."
        )
    return _meta_tensor(path, *in_time(path, partial(reader, path), stop_decoder))


def _finite_extremes(path: Path | str, image: MetaTensor) -> tuple[torch.Tensor, torch.Tensor]:
    lowest, highest = torch.aminmax(image.as_tensor())
    if not (torch.isfinite(lowest) and torch.isfinite(highest)):
        bad = int((~torch.isfinite(image.as_tensor())).sum())
        raise InputError(
            f"{path}: expected finite values, found {bad} that are NaN or infinite. Replace them "
            "(outside the body: by 0) and save the file again."
        )
    return lowest, highest


def _reader_of(path: Path) -> Callable[[Path], _Content]:
    """Choose the reader by the file's name, once it is known to be a file with content."""
    if path.is_dir() and holds_dicom(path, recursive=True):
        return _read_dicom
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: expected an image file, found {found}. Check the path.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: expected an image, found an empty file. Copy it again.")
    name = path.name.lower()
    if name.endswith(PICTURE_SUFFIXES):
        return _read_picture
    if name.endswith(ITK_SUFFIXES):
        return _read_itk
    if name.endswith(NIFTI_SUFFIXES):
        return _read_nifti
    if name.endswith(DICOM_SUFFIXES) or is_dicom(path):  # many DICOM files have no extension
        return _read_dicom
    known = PICTURE_SUFFIXES + VOLUME_SUFFIXES + DICOM_SUFFIXES
    raise InputError(
        f"{path}: expected one of {', '.join(known)}, found "
        f"{''.join(path.suffixes) or 'no extension'}. Convert the file to one of these."
    )


def _read_picture(path: Path) -> _Content:
    with _decoding(path):
        array = read_picture(path)
    return _grey(array), np.eye(4), {"bit_depth": 8 * array.dtype.itemsize}


def _grey(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One channel (H, W) of a picture whose colours are all grey."""
    if picture.ndim == 3:
        first, *others = np.moveaxis(picture, -1, 0)
        if all(np.array_equal(first, other) for other in others):
            return np.asarray(first)
    return picture


def _read_itk(path: Path) -> _Content:
    with _decoding(path):
        array, affine = read_itk(path)
    if affine is not None:
        return _volume(path, array, {"affine": affine})
    if array.dtype.kind not in "iu" or array.dtype.itemsize > 2:
        raise InputError(
            f"{path}: expected a picture of 8 or 16 bits, found two dimensions of type "
            f"{array.dtype}. Save the picture with 16 bits, or a volume with three dimensions."
        )
    return array, np.eye(4), {"bit_depth": 8 if array.dtype == np.uint8 else 16}


def _read_nifti(path: Path) -> _Content:
    with _decoding(path):
        array, meta = read_nifti(path)
    return _volume(path, array, meta)


def _volume(path: Path, array: np.ndarray[Any, Any], meta: Mapping[str, Any]) -> _Content:
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: expected real numbers, found voxels of type {array.dtype}.")
    if array.ndim == 5 and array.shape[3] == 1:  # NIfTI keeps vectors in the fifth dimension
        array = array[:, :, :, 0]
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise InputError(
            f"{path}: expected a volume (X, Y, Z) or (X, Y, Z, channels), found {array.shape}."
        )
    affine = np.asarray(meta["affine"], dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path}: expected an invertible affine, found {affine.tolist()}.")
    header = {key: meta[key] for key in KEPT_FIELDS if key in meta}
    if header.get("qform_code") == 0 == header.get("sform_code"):
        warnings.warn(
            f"{path}: the header gives no orientation (qform_code and sform_code are 0), so left "
            "and right are a guess: the voxels are taken as stored from right to left, posterior "
            "to anterior, inferior to superior.",
            stacklevel=2,
        )
    return array, affine, header


def _read_dicom(path: Path, series_uid: str | None = None) -> _Content:
    image = read_dicom(path, series_uid)
    if image.affine is None:
        return _grey(image.values()), np.eye(4), image.meta()
    return image.values(), image.affine, image.meta()


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Tells of whatever a decoder stumbles over as a fault of the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, EOFError, zlib.error, SyntaxError, ...
        raise InputError(
            f"{path}: expected a readable {''.join(path.suffixes[-2:])} file, but decoding it "
            f"failed ({type(error).__name__}: {error}). It may be truncated, damaged or of "
            "another format than its name says; copy or export it again."
        ) from error


def _meta_tensor(
    path: Path,
    array: np.ndarray[Any, Any],
    affine: np.ndarray[Any, Any],
    extra: Mapping[str, Any],
) -> MetaTensor:
    """Put the channels first, which are last in an array that has any.

    Args:
        path: the file.
        array: (H, W) or (H, W, C) of a picture, (X, Y, Z) or (X, Y, Z, C) of a volume.
        affine: 4 x 4, voxel indices to mm in RAS+.
        extra: further meta data; of pictures alone with ``bit_depth``.
    """
    spatial = 2 if "bit_depth" in extra else 3
    values = _float32(array[None] if array.ndim == spatial else np.moveaxis(array, -1, 0))
    meta = {
        "filename_or_obj": str(path),
        "spatial_shape": tuple(values.shape[1:]),
        "affine": torch.from_numpy(affine),
        "original_affine": affine.copy(),
        **extra,
    }
    return MetaTensor(values, meta=meta)


def _float32(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A copy in C order; torch makes it with all threads where NumPy would take one.

    What overflows float32 becomes infinite, which is reported.
    """
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 8
    native = array.astype(np.float64 if wide else array.dtype.newbyteorder("="), copy=False)
    if any(stride < 0 for stride in native.strides):
        native = np.ascontiguousarray(native)
    stored = torch.from_numpy(native)
    return stored.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def _joined_meta(parts: Sequence[MetaTensor]) -> dict[str, Any]:
    """The meta data of the first part, without what would not hold for the others."""
    meta = dict(parts[0].meta)
    if len(parts) > 1:
        modalities = dict.fromkeys(str(part.meta.get("modality") or "") for part in parts)
        if any(modalities):
            meta["modality"] = ", ".join(name or "unknown" for name in modalities)
        for key in ("voi_windows", "voi_function"):
            meta.pop(key, None)
    return meta


def _require_same_grid(
    path_a: Path | str,
    a: MetaTensor,
    path_b: Path | str,
    b: MetaTensor,
    remedy: str = "Resample one onto the other.",
) -> None:
    if a.shape[1:] != b.shape[1:]:
        raise InputError(
            f"{path_b} has the shape {tuple(b.shape[1:])} but {path_a} has {tuple(a.shape[1:])}: "
            f"expected one grid for all files of a case. {remedy}"
        )
    if not torch.allclose(a.affine, b.affine, rtol=0.0, atol=AFFINE_TOLERANCE):
        raise InputError(
            f"{path_b} has the affine {b.affine.tolist()} but {path_a} has {a.affine.tolist()}: "
            f"expected them equal to {AFFINE_TOLERANCE} mm. {remedy}"
        )


def _checked_channels(
    channels: Sequence[int], available: int, paths: Sequence[Path | str]
) -> list[int]:
    chosen = list(channels)
    if not chosen or any(not 0 <= channel < available for channel in chosen):
        raise InputError(
            f"channels: expected indices from 0 to {available - 1} for "
            f"{', '.join(map(str, paths))}, found {chosen}."
        )
    return chosen

"""Pictures with all their grey levels: PNG, JPEG and TIFF."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from transforms.decoder import decode
from transforms.errors import InputError
from transforms.limits import require_memory

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

_FORMATS = ("PNG", "JPEG", "TIFF")
_ORIENTATION_TAG = 0x0112


def read_picture(path: Path) -> np.ndarray[Any, Any]:
    """Read one PNG, JPEG or TIFF of 8 or 16 bits per channel.

    Unlike MONAI's ``PILReader`` it keeps rows as rows, all levels of 16-bit colour (which Pillow
    alone would cut to 8), and applies the orientation that a camera has noted. Opaque alpha
    channels are dropped; palettes and 1-bit pictures become 8-bit values.

    Returns:
        uint8, uint16 or int16 of shape (H, W) or (H, W, 3).

    Raises:
        InputError: for what would have to be guessed: transparency, CMYK and other colour spaces,
            floating point and 32-bit values, several pages.
    """
    require_memory(path, path.stat().st_size)
    content = path.read_bytes()
    with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
        require_memory(path, 4 * picture.width * picture.height * len(picture.getbands()))
        pages = getattr(picture, "n_frames", 1)
        if pages > 1 and picture.format != "MPO":  # an MPO is a JPEG with its previews
            raise InputError(
                f"{path}: expected one picture, found {pages} pages. Save each page as a file "
                "of its own, or the stack as NIfTI."
            )
        if picture.format == "PNG":
            _require_intact_png(path, content)
        if _is_deep_colour(picture):
            return _read_deep_colour(path, picture)
        return _pixels(path, ImageOps.exif_transpose(picture))


def _require_intact_png(path: Path, content: bytes) -> None:
    """Compare the checksum of every chunk, up to the last; Pillow looks at some of them."""
    end, kind = 8, b""
    while kind != b"IEND":
        start, end = end, end + 12
        if end <= len(content):
            size, kind = struct.unpack_from(">I4s", content, start)
            end += size
        if content[end - 4 : end] != zlib.crc32(content[start + 4 : end - 4]).to_bytes(4, "big"):
            raise InputError(
                f"{path}: expected a whole PNG, found a chunk without its end or that does not "
                "fit its checksum. It was damaged; copy or export it again."
            )


def _raw_mode(picture: Image.Image) -> str:
    """How the file stores its pixels, which may be deeper than Pillow's mode."""
    tiles = getattr(picture, "tile", None)  # Pillow's record of how to decode the file
    args = tiles[0][3] if tiles else picture.mode
    return str(args[0] if isinstance(args, tuple) else args)


def _is_deep_colour(picture: Image.Image) -> bool:
    return ";16" in _raw_mode(picture) and not picture.mode.startswith("I")


def _read_deep_colour(path: Path, picture: Image.Image) -> np.ndarray[Any, Any]:
    """Read 16-bit colour with SimpleITK, since Pillow would keep only 8 of the bits."""
    if picture.mode != "RGB" or picture.getexif().get(_ORIENTATION_TAG, 1) != 1:
        raise InputError(
            f"{path}: expected 16-bit grey or upright RGB, found 16-bit {_raw_mode(picture)} with "
            "transparency or a rotation tag. Save it as 16-bit grey or plain RGB."
        )
    return decode(path, lambda folder: path)


def _pixels(path: Path, picture: Image.Image) -> np.ndarray[Any, Any]:
    if picture.mode in ("P", "PA"):
        transparent = picture.mode == "PA" or "transparency" in picture.info
        picture = picture.convert("RGBA" if transparent else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode in ("LA", "RGBA"):
        picture = _without_alpha(path, picture)
    if picture.mode in ("L", "RGB"):
        return np.array(picture)
    if picture.mode.startswith("I"):
        return _integer_levels(path, np.array(picture))
    raise InputError(
        f"{path}: expected grey or RGB of 8 or 16 bits, found Pillow's mode {picture.mode!r}. "
        "Convert the picture to 8- or 16-bit grey or to RGB."
    )


def _without_alpha(path: Path, picture: Image.Image) -> Image.Image:
    lowest, _ = picture.getchannel("A").getextrema()
    if lowest != 255:
        raise InputError(
            f"{path}: expected an opaque picture, found transparent pixels. Flatten the picture "
            "onto its background and save it again."
        )
    return picture.convert("L" if picture.mode == "LA" else "RGB")


def _integer_levels(path: Path, levels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Narrow Pillow's 32-bit grey to the 16 bits that the file holds."""
    for dtype in (np.uint16, np.int16):
        limits = np.iinfo(dtype)
        if limits.min <= levels.min() and levels.max() <= limits.max:
            return levels.astype(dtype)
    raise InputError(
        f"{path}: expected at most 16 bits, found values from {levels.min()} to {levels.max()}. "
        "Save the picture with 16 bits."
    )

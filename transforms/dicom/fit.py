"""Whether the pixels of a file are as many as its Rows and Columns say.

The decoder believes the header where pixels are uncompressed, RLE or JPEG-LS: of an image with
fewer rows it would show a part, and of one with other columns a scramble. Of the other compressions
it tells the shape.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pydicom

from transforms.errors import InputError

_JPEG_LS = (pydicom.uid.JPEGLSLossless, pydicom.uid.JPEGLSNearLossless)
_JPEG_START = b"\xff\xd8"
_JPEG_LS_FRAME = 0xF7  # the marker of the frame header


def require_fit(path: Path, dataset: pydicom.FileDataset) -> None:
    """Refuse pixels that are more or fewer than the header says.

    Args:
        path: the file, for messages.
        dataset: with its pixels.

    Raises:
        InputError: if they are.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not syntax.is_compressed:
        expected, found = _byte_counts(dataset)
        if found not in (expected, expected + expected % 2):
            raise _misfit(path, dataset, f"{expected} bytes", str(found))
    elif syntax == pydicom.uid.RLELossless:
        for fragment in _fragments(dataset.PixelData):
            for length in _run_lengths(fragment):
                if length != rows * columns:
                    raise _misfit(path, dataset, f"{rows * columns}", str(length))
    elif syntax in _JPEG_LS:
        for fragment in _fragments(dataset.PixelData):
            shape = _jpeg_ls_shape(fragment)
            if fragment[:2] == _JPEG_START and shape != (rows, columns):
                raise _misfit(path, dataset, f"{rows} x {columns}", f"{shape[0]} x {shape[1]}")


def _misfit(path: Path, dataset: pydicom.Dataset, expected: str, found: str) -> InputError:
    return InputError(
        f"{path}: expected {expected} of pixels for its {dataset.Rows} rows and {dataset.Columns} "
        f"columns, found {found}: the file is cut off or its header wrong. Copy or export it again."
    )


def _byte_counts(dataset: pydicom.Dataset) -> tuple[int, int]:
    """The bytes that the header tells of, and those that there are."""
    # YBR_FULL_422 shares the two colour values between neighbouring pixels.
    halved = dataset.PhotometricInterpretation == "YBR_FULL_422"
    samples = 2 if halved else int(dataset.get("SamplesPerPixel") or 1)
    frames = int(dataset.get("NumberOfFrames") or 1)
    bits = frames * dataset.Rows * dataset.Columns * samples * dataset.BitsAllocated
    return bits // 8, len(dataset.PixelData)


def _fragments(encapsulated: bytes) -> Iterator[bytes]:
    """What the items of compressed pixel data hold, without their table of offsets."""
    position, end = 0, len(encapsulated)
    while position + 8 <= end:
        group, element, size = struct.unpack_from("<HHL", encapsulated, position)
        if (group, element) != (0xFFFE, 0xE000):  # the delimiter at the end
            return
        if position:
            yield encapsulated[position + 8 : position + 8 + size]
        position += 8 + size


def _run_lengths(frame: bytes) -> Iterator[int]:
    """The bytes of each segment of an RLE frame, inflated: one segment per byte of a pixel."""
    count, *starts = struct.unpack_from("<16L", frame)
    for start, end in zip(starts[:count], [*starts[1:count], len(frame)], strict=True):
        length, position = 0, start
        while position < end - 1:  # a last byte alone is padding
            code = frame[position]
            length += code + 1 if code < 128 else (257 - code) % 129
            position += code + 2 if code < 128 else 2 - (code == 128)
        yield length


def _jpeg_ls_shape(frame: bytes) -> tuple[int, int]:
    """The rows and columns that a JPEG-LS frame gives itself; (0, 0) if it has no such header."""
    position = 2
    while position + 9 <= len(frame):
        _, marker, size, _, rows, columns = struct.unpack_from(">BBHBHH", frame, position)
        if marker == _JPEG_LS_FRAME:
            return rows, columns
        position += 2 + size
    return 0, 0

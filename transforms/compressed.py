"""Compressed files, read to their end, so that their checksums are compared."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from transforms.errors import InputError

_BLOCK = 1 << 18
_PIECE = 1 << 22
_ZLIB_OR_GZIP = 47  # zlib's number for either format, told by the first bytes


def inflate(path: Path, start: int = 0, wbits: int = _ZLIB_OR_GZIP) -> Iterator[bytes]:
    """Inflate a file piece by piece.

    Args:
        path: the file.
        start: where in the file the compressed bytes begin; they go on to its end, in one or
            several streams.
        wbits: the format, as zlib numbers it.

    Yields:
        At most 4 MiB each; the checksum of a stream has been compared once the next piece, or the
        end, is reached.

    Raises:
        InputError: if the file is damaged or cut off, or if something else follows; raw deflate
            (negative `wbits`) may have a trailer.
    """
    decoder = zlib.decompressobj(wbits)
    with open(path, "rb") as file:
        file.seek(start)
        rest = b""
        try:
            while data := rest or file.read(_BLOCK):
                rest = b""
                if decoder.eof and wbits < 0:  # a raw stream is one; some writers add a trailer
                    break
                if decoder.eof:
                    data = data.lstrip(b"\0")
                    if not data:  # padding
                        continue
                    decoder = zlib.decompressobj(wbits)
                yield decoder.decompress(data, _PIECE)
                rest = decoder.unconsumed_tail or decoder.unused_data
            yield decoder.flush()
        except zlib.error as error:
            raise InputError(
                f"{path}: expected an intact compressed file, but its contents do not fit their "
                f"checksum or format ({error}). It was damaged; copy or export it again."
            ) from error
    if not decoder.eof:
        raise InputError(
            f"{path}: expected a whole compressed file, found one that is cut off. Copy it again."
        )


def require_intact(path: Path, start: int, values: np.ndarray[Any, Any]) -> None:
    """Refuse a compressed file that another decoder, which compares no checksum, has inflated.

    Args:
        path: the file.
        start: where in the file the compressed bytes begin.
        values: what the other decoder found. If the checksum is theirs, nothing is inflated again;
            it is not if their bytes were swapped or moved, or come from several streams.

    Raises:
        InputError: see ``inflate``; or if the file holds more or fewer bytes.
    """
    with open(path, "rb") as file:
        file.seek(start)
        gzip = file.read(2) == b"\x1f\x8b"
        file.seek(-8, 2)
        end = file.read()
    if gzip and end == struct.pack("<II", zlib.crc32(values.data), values.nbytes % (1 << 32)):
        return
    if not gzip and end[4:] == struct.pack(">I", zlib.adler32(values.data)):
        return
    found = 0
    for piece in inflate(path, start):
        found += len(piece)
        if found > values.nbytes:
            break
    if found != values.nbytes:
        raise InputError(
            f"{path}: expected {values.nbytes} bytes as its header says, found "
            f"{'more' if found > values.nbytes else found} once inflated. Header and values do not "
            "belong together; copy or export the file again."
        )

"""Compressed files, read to their end, so that their checksums are compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from transforms.errors import InputError

Content = np.ndarray[Any, np.dtype[np.uint8]]

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
    decoder = isal_zlib.decompressobj(wbits)
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
                    decoder = isal_zlib.decompressobj(wbits)
                yield decoder.decompress(data, _PIECE)
                rest = decoder.unconsumed_tail or decoder.unused_data
            yield decoder.flush()
        except isal_zlib.error as error:  # type: ignore[misc]
            raise InputError(
                f"{path}: expected an intact compressed file, but its contents do not fit their "
                f"checksum or format ({error}). It was damaged; copy or export it again."
            ) from error
    if not decoder.eof:
        raise InputError(
            f"{path}: expected a whole compressed file, found one that is cut off. Copy it again."
        )


def read_values(path: Path, start: int, size: int, compressed: bool) -> Content:
    """The bytes of a file from a place to its end, inflated and verified.

    Args:
        path: the file.
        start: the first byte.
        size: how many there are by the header, once inflated.
        compressed: whether they are to be inflated; else they are mapped, to be copied if written.

    Raises:
        InputError: see ``inflate``; or if the file holds more or fewer bytes.
    """
    if compressed:
        content: Content = np.empty(size, np.uint8)
        found = 0
        for piece in inflate(path, start):
            content[found : found + len(piece)] = np.frombuffer(piece, np.uint8)[: size - found]
            found += len(piece)
            if found > size:
                break
    else:
        content = np.memmap(path, mode="c", offset=start)
        found = len(content)
    if found != size:
        raise InputError(
            f"{path}: expected {size} bytes as its header says, found "
            f"{'more' if found > size else found}. Header and values do not belong together; copy "
            "or export the file again."
        )
    return content

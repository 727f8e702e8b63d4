"""Compressed files, read to their end, so that their checksums are compared."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

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
        InputError: if the file is damaged or cut off, or if something else follows.
    """
    decoder = zlib.decompressobj(wbits)
    with open(path, "rb") as file:
        file.seek(start)
        rest = b""
        try:
            while data := rest or file.read(_BLOCK):
                rest = b""
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

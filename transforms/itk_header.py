"""NRRD and MetaImage headers, read and checked here, since SimpleITK's own parsers can crash.

SimpleITK tells the geometry of a header that is written anew from what has been understood; it
never sees the file's, nor its values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from transforms.errors import InputError
from transforms.limits import require_memory

LONGEST_HEADER = 1 << 20
"""Bytes of a header, at most."""

_LONGEST_FIELD = 500  # SimpleITK's parser writes beyond its buffers from about 1000 characters

_NRRD_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        *("longlong", "long long", "long long int", "signed long long", "signed long long int"),
        *("int64", "int64_t"),
    ),
    "u8": (*("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),),
    "f4": ("float",),
    "f8": ("double",),
}
_NRRD_ALIASES = {
    "datafile": "data file",
    "byteskip": "byte skip",
    "lineskip": "line skip",
    "axismins": "axis mins",
    "axismaxs": "axis maxs",
    "centerings": "centers",
}
# What decides the grid, and what is understood and left out.
_NRRD_KEPT = (
    *("type", "dimension", "sizes", "endian", "kinds", "space", "space dimension", "spacings"),
    *("space directions", "space origin", "axis mins", "axis maxs", "centers"),
)
_NRRD_LEFT_OUT = (
    *("encoding", "data file", "byte skip", "line skip", "content", "number", "labels", "units"),
    *("thicknesses", "min", "max", "old min", "oldmin", "old max", "oldmax", "block size"),
    *("blocksize", "sample units", "sampleunits", "space units", "measurement frame"),
)

_NRRD_PLACES = ("domain", "space", "time", "none", "???")  # kinds of axes that lead to voxels

_META_TYPES = {
    "i1": ("MET_CHAR",),
    "u1": ("MET_UCHAR",),
    "i2": ("MET_SHORT",),
    "u2": ("MET_USHORT",),
    "i4": ("MET_INT", "MET_LONG"),
    "u4": ("MET_UINT", "MET_ULONG"),
    "i8": ("MET_LONG_LONG",),
    "u8": ("MET_ULONG_LONG",),
    "f4": ("MET_FLOAT",),
    "f8": ("MET_DOUBLE",),
}
# Numbers per axis, to the power given.
_META_NUMBERS = {
    **dict.fromkeys(("DimSize", "ElementSpacing", "ElementSize"), 1),
    **dict.fromkeys(("Offset", "Position", "Origin", "CenterOfRotation"), 1),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2),
}
_META_KEPT = (
    *("NDims", *_META_NUMBERS, "BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
    *("ElementNumberOfChannels", "ElementType"),
)
_META_READ = (
    *_META_KEPT,
    *("ObjectType", "BinaryData", "CompressedData", "CompressedDataSize", "HeaderSize"),
    "ElementDataFile",
)


@dataclass(frozen=True)
class ItkHeader:
    """Where and how a file keeps its values.

    Attributes:
        data: the file that holds them, resolved.
        start: their first byte in it, as stored.
        compressed: whether they are, by gzip or zlib.
        dtype: of a value.
        sizes: of the axes, the fastest first; of a MetaImage with channels, these come before.
        components: the axis along which the components of a voxel lie, if one does.
        lines: a header for them that names no file.
    """

    data: Path
    start: int
    compressed: bool
    dtype: np.dtype[Any]
    sizes: tuple[int, ...]
    components: int | None
    lines: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the values, inflated."""
        return math.prod(self.sizes) * self.dtype.itemsize

    def write(self, folder: Path) -> Path:
        """Write the header into a folder, without the values."""
        nrrd = self.lines[0].startswith("NRRD")
        path = folder / ("header.nrrd" if nrrd else "header.mhd")
        end = ["encoding: raw", "", ""] if nrrd else ["ElementDataFile = none", ""]
        path.write_text("\n".join([*self.lines, *end]), "ascii")
        return path


def read_header(path: Path) -> ItkHeader:
    """Read and check a header.

    Args:
        path: a file whose name ends like an NRRD or a MetaImage.

    Raises:
        InputError: if the header is too long, malformed or says what is not read, or if its data
            file lies outside its folder, is no regular file, or does not fit.
    """
    with open(path, "rb") as file:
        return (_nrrd if path.suffix.lower() in (".nrrd", ".nhdr") else _meta)(path, file)


def _nrrd(path: Path, file: BinaryIO) -> ItkHeader:
    lines = _lines(path, file)
    magic = next(lines, "")
    if not re.fullmatch(r"NRRD000[1-5]", magic):
        raise _unreadable(path, "no NRRD header")
    fields = _nrrd_fields(path, lines)
    sizes = _sizes(path, "sizes", _required(path, fields, "sizes"))
    _require_axes(path, _required(path, fields, "dimension"), sizes)
    encoding = fields.get("encoding", "none").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(
            f"{path}: expected the encoding raw or gzip, found {encoding[:40]}. Save it as one of "
            "these."
        )
    compressed = encoding != "raw"
    dtype = _dtype(path, _required(path, fields, "type").lower(), _NRRD_TYPES)
    big = _choice(path, fields, "endian", "little", ("little", "big")) == "big"
    named = fields.get("data file")
    data = path.resolve() if named is None else _beside(path, named)
    start = 0 if named is not None else file.tell()
    skip = _integer(path, "byte skip", fields.get("byte skip", "0"))
    if _integer(path, "line skip", fields.get("line skip", "0")) or (compressed and skip):
        raise InputError(
            f"{path}: expected values without lines or compressed bytes to skip before them. Save "
            "the volume as one file."
        )
    kept = (magic, *(f"{key}: {fields[key]}" for key in fields if key in _NRRD_KEPT))
    stored = dtype.newbyteorder(">" if big else "<")
    kinds = fields.get("kinds", "").lower().split()
    if "complex" in kinds:
        raise InputError(
            f"{path}: expected real numbers, found complex ones. Save their magnitude."
        )
    components = next((axis for axis, kind in enumerate(kinds) if kind not in _NRRD_PLACES), None)
    header = ItkHeader(data, start, compressed, stored, sizes, components, kept)
    return _checked(path, header, skip)


def _nrrd_fields(path: Path, lines: Iterator[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            break
        name, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):  # a comment, or a key with its value
            continue
        name = _NRRD_ALIASES.get(name.lower(), name.lower())
        if not colon or name not in _NRRD_KEPT + _NRRD_LEFT_OUT:
            raise _unreadable(path, f"the header line {line[:40]!r}")
        if name in fields:
            raise _unreadable(path, f"two header lines for {name!r}")
        fields[name] = _field(path, name, value) if name in _NRRD_KEPT else value.strip()
    return fields


def _meta(path: Path, file: BinaryIO) -> ItkHeader:
    fields = _meta_fields(path, _lines(path, file))
    if fields.get("ObjectType", "Image") != "Image" or not _flag(path, fields, "BinaryData", True):
        raise InputError(
            f"{path}: expected an image with binary values, found the object type "
            f"{fields.get('ObjectType', 'Image')} and BinaryData {fields.get('BinaryData')}. Save "
            "it as a binary image."
        )
    sizes = _sizes(path, "DimSize", _required(path, fields, "DimSize"))
    _require_axes(path, _required(path, fields, "NDims"), sizes)
    for name, power in _META_NUMBERS.items():
        if name in fields:
            _require_numbers(path, name, fields[name], len(sizes) ** power)
    channels = _integer(path, "channels", fields.get("ElementNumberOfChannels", "1"))
    if channels < 1:
        raise _unreadable(path, f"{channels} channels")
    dtype = _dtype(path, _required(path, fields, "ElementType"), _META_TYPES)
    compressed = _flag(path, fields, "CompressedData", False)
    big = any(
        _flag(path, fields, f"{what}ByteOrderMSB", False) for what in ("BinaryData", "Element")
    )
    named = _required(path, fields, "ElementDataFile")
    local = named.upper() == "LOCAL"
    data = path.resolve() if local else _beside(path, named)
    skip = _integer(path, "HeaderSize", fields.get("HeaderSize", "0"))
    if skip and (local or compressed):
        raise _unreadable(path, f"HeaderSize {skip} in one file or before compressed values")
    if compressed:
        found = data.stat().st_size - (file.tell() if local else 0)
        stated = _integer(path, "size", fields.get("CompressedDataSize", str(found)))
        if stated != found:
            raise _misfit(path, data, f"{stated} compressed bytes", found)
    lines = ("ObjectType = Image", *(f"{k} = {fields[k]}" for k in _META_KEPT if k in fields))
    stored = dtype.newbyteorder(">" if big else "<")
    sizes, components = ((channels, *sizes), 0) if channels > 1 else (sizes, None)
    start = file.tell() if local else 0
    header = ItkHeader(data, start, compressed, stored, sizes, components, lines)
    return _checked(path, header, skip)


def _checked(path: Path, header: ItkHeader, skip: int) -> ItkHeader:
    """The header with its start moved on, if the values lie there and may be read."""
    start = _start(path, header.data, header.size, header.start, skip)
    found = header.data.stat().st_size - start
    if not header.compressed and found != header.size:
        raise _misfit(path, header.data, f"{header.size} bytes of values", found)
    if header.compressed and found <= 0:
        raise _misfit(path, header.data, "compressed values", found)
    require_memory(path, max(header.size, 4 * math.prod(header.sizes)))
    return replace(header, start=start)


def _meta_fields(path: Path, lines: Iterator[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, value = (part.strip() for part in [*re.split("[=:]", line, maxsplit=1), ""][:2])
        if name in fields:
            raise _unreadable(path, f"two header lines for {name!r}")
        if name in _META_READ:
            fields[name] = _field(path, name, value) if name in _META_KEPT else value
        if name == "ElementDataFile":  # the last line of a header
            break
    return fields


def _lines(path: Path, file: BinaryIO) -> Iterator[str]:
    """The lines of a header, without their ends."""
    left = LONGEST_HEADER
    while line := file.readline(left):
        left -= len(line)
        if not left:
            raise _unreadable(path, f"a header of more than {LONGEST_HEADER} bytes")
        yield line.decode("utf-8", "surrogateescape").rstrip("\r\n \t")


def _field(path: Path, name: str, value: str) -> str:
    value = value.strip()
    if len(value) > _LONGEST_FIELD or not (value.isascii() and value.isprintable()):
        raise _unreadable(path, f"{len(value)} characters for {name!r}, or special ones")
    return value


def _required(path: Path, fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise _unreadable(path, f"no {name!r} in its header")
    return fields[name]


def _integer(path: Path, name: str, text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,18}", text):
        raise _unreadable(path, f"{text[:40]!r} for {name!r}")
    return int(text)


def _sizes(path: Path, name: str, text: str) -> tuple[int, ...]:
    sizes = tuple(_integer(path, name, word) for word in text.split())
    if not all(size > 0 for size in sizes):
        raise _unreadable(path, f"{text!r} for {name!r}")
    return sizes


def _require_axes(path: Path, dimension: str, sizes: tuple[int, ...]) -> None:
    if str(len(sizes)) != dimension or len(sizes) not in (2, 3, 4):
        raise InputError(
            f"{path}: expected two to four dimensions with their sizes, found the dimension "
            f"{dimension[:40]} and {len(sizes)} size(s). Save one volume."
        )


def _require_numbers(path: Path, name: str, text: str, count: int) -> None:
    try:
        finite = [math.isfinite(float(word)) for word in text.split()]
    except ValueError:
        finite = []
    if finite != [True] * count:
        raise _unreadable(path, f"{text[:40]!r} for {name!r}, which takes {count} numbers")


def _flag(path: Path, fields: Mapping[str, str], name: str, default: bool) -> bool:
    return _choice(path, fields, name, str(default), ("true", "false")) == "true"


def _choice(
    path: Path, fields: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]
) -> str:
    text = fields.get(name, default).lower()
    if text not in choices:
        raise _unreadable(path, f"{text[:40]!r} for {name!r}")
    return text


def _dtype(path: Path, name: str, types: Mapping[str, tuple[str, ...]]) -> np.dtype[Any]:
    for code, names in types.items():
        if name in names:
            return np.dtype(code)
    raise InputError(
        f"{path}: expected whole or floating point numbers, found the type {name[:40]}. Save it as "
        "one of these."
    )


def _beside(path: Path, name: str) -> Path:
    """The data file, which lies in the header's folder."""
    folder = path.parent.resolve()
    data = (folder / name).resolve()
    if not data.is_relative_to(folder) or (data.exists() and not data.is_file()):
        raise InputError(
            f"{path}: expected its values in a file beside it, found {name[:200]!r}, which leads "
            "out of its folder or to no plain file. Put both into one folder."
        )
    if not data.exists():
        raise _unreadable(path, f"no file {name[:200]!r} with its values (lists are not read)")
    return data


def _start(path: Path, data: Path, size: int, start: int, skip: int) -> int:
    """The first byte of the values; -1 takes the last ones of the file."""
    if skip < -1:
        raise _unreadable(path, f"{skip} bytes to skip")
    return max(start, data.stat().st_size - size) if skip == -1 else start + skip


def _misfit(path: Path, data: Path, expected: str, found: int) -> InputError:
    return InputError(
        f"{path}: expected {expected} as its header says, found {max(found, 0)} bytes in "
        f"{data.name}. It is cut off or damaged; copy or export it again."
    )


def _unreadable(path: Path, found: str) -> InputError:
    return InputError(
        f"{path}: expected a readable NRRD or MetaImage file, found {found}. It may be damaged or "
        "of another format than its name says; copy or export it again."
    )

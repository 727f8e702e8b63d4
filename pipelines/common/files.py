"""Files that appear whole or not at all."""

from __future__ import annotations

import csv
import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transforms.errors import InputError

PARTIAL = ".partial-"
"""What the names of files begin with that are not whole yet."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_RIGHT = {errno.EROFS, errno.EACCES, errno.EPERM}
TORCH_WRITES = ("PytorchStreamWriter", "inline_container", "iostream")
"""Of these `torch.save` speaks when the disk is full."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside ``path`` that takes its place when the block ends well.

    Raises:
        InputError: when the folder cannot be written, or the disk is full.
    """
    writable_folder(path.parent)
    suffix = "".join(path.suffixes[-2:])
    with _telling_why(path):
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f"{PARTIAL}{path.stem}-", suffix=suffix
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _telling_why(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM | NO_RIGHT:
            raise
        raise _unwritable(path, str(error.strerror), error.errno in NO_ROOM) from error
    except RuntimeError as error:
        if not any(word in str(error) for word in TORCH_WRITES):
            raise
        raise _unwritable(path, "PyTorch could not write to the end", True) from error


def _unwritable(path: Path, cause: str, room: bool) -> InputError:
    advice = "Free some space" if room else "Allow writing there"
    return InputError(
        f"{path}: the file cannot be written ({cause}). {advice}, or choose another folder. "
        "What was finished is whole; the same command goes on from there."
    )


def writable_folder(folder: Path, argument: str = "output_dir") -> Path:
    """Creates a folder if need be and checks that it can be written.

    Raises:
        InputError: when it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{argument}: the folder {folder} cannot be created ({error.strerror}). Choose "
            f"another one with --{argument}."
        ) from error
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"{argument}: the folder {folder} cannot be written. Choose another one with "
            f"--{argument}."
        )
    return folder


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON without NaN, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Writes rows as CSV with a header, atomically."""
    with replacing(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)

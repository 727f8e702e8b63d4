"""How much memory one image may take, told before any is taken."""

from __future__ import annotations

from pathlib import Path

from transforms.errors import InputError

MAX_GIGABYTES = 8.0
"""GiB that one image may take, unless ``set_max_gigabytes`` says otherwise."""

_GIGABYTE = 1 << 30
_max_gigabytes = MAX_GIGABYTES


def set_max_gigabytes(gigabytes: float) -> None:
    """Set how much memory (GiB) one image may take from now on, as ``--max_gigabytes`` does."""
    global _max_gigabytes
    _max_gigabytes = gigabytes


def require_memory(path: Path | str, size: int) -> None:
    """Refuse an image that takes too much memory.

    Args:
        path: the file, for messages.
        size: bytes of its values, once inflated and read.

    Raises:
        InputError: naming the option that allows more.
    """
    if size > _max_gigabytes * _GIGABYTE:
        raise InputError(
            f"{path}: expected an image of at most {_max_gigabytes:g} GiB in memory, found one of "
            f"{size / _GIGABYTE:.3g} GiB or more. If its size is right, allow it with "
            "--max_gigabytes (in Python set_max_gigabytes of transforms.limits)."
        )

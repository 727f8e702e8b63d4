"""The error of a wrong argument, and errors in few words."""

from __future__ import annotations


class ArgumentError(ValueError):
    """An argument that a user may have chosen; the message names it and says what to do."""


def summary(error: BaseException) -> str:
    """The kind of an error and the beginning of its first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"

"""Options chosen by name, with an error that helps to mend a slip of the pen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from .errors import ArgumentError

T = TypeVar("T")


def choose(argument: str, name: str, choices: Mapping[str, T]) -> T:
    """Return the entry of `choices` called `name`.

    Args:
        argument: name of the argument that `name` was given for, used in the error.
        name: the choice.
        choices: what may be chosen.

    Raises:
        ArgumentError: if there is no such choice; it lists the choices and the nearest one.

    Example:
        >>> choose("scale", "exp", {"exp": 1, "softplus": 2})
        1
    """
    if name in choices:
        return choices[name]
    listed = ", ".join(repr(choice) for choice in choices)
    remedy = nearest(str(name), choices) or "Choose one of these."
    raise ArgumentError(f"{argument}: expected one of {listed}, got {name!r}. {remedy}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that points at the nearest name; empty when none is near.

    Example:
        >>> nearest("Max_epoch", ["max_epochs", "seed"])
        "Did you mean 'max_epochs'?"
    """
    by_lower = {one.lower(): one for one in known}
    close = get_close_matches(name.lower(), by_lower, n=1)
    return f"Did you mean '{by_lower[close[0]]}'?" if close else ""

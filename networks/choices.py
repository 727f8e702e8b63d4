"""Options chosen by name, with an error that helps to mend a slip of the pen."""

from __future__ import annotations

from collections.abc import Mapping
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
    nearest = get_close_matches(str(name), list(choices), n=1, cutoff=0.4)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else "choose one of these."
    raise ArgumentError(f"{argument}: expected one of {listed}, got {name!r}; {remedy}")

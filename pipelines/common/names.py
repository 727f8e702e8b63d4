"""What a misspelt name was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that points at the nearest name; empty when none is near.

    Example:
        >>> nearest("Max_epoch", ["max_epochs", "seed"])
        "Did you mean 'max_epochs'?"
    """
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"Did you mean '{by_lower[close[0]]}'?" if close else ""

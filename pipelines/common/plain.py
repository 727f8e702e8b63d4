"""Which entries of a bundle's config are options, and how a mistake is told; quick to import."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any


def plain_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options at the top of a config, without its objects and run lists."""
    return {
        key: value
        for key, value in config.items()
        if is_plain(value) and not key.startswith("_") and key != "run"
    }


def is_plain(value: Any) -> bool:
    """Whether a config's entry is a value, or a group of them, rather than objects or calls."""
    if isinstance(value, dict):
        return bool(value) and "_target_" not in value and all(map(is_value, value.values()))
    return all(map(is_value, value)) if isinstance(value, list) else True


def is_value(value: Any) -> bool:
    """Whether something is plain and no expression either."""
    expression = isinstance(value, str) and value.startswith(("$", "@", "%"))
    return not expression and is_plain(value)


def paragraph(mistake: str) -> str:
    """A user's mistake as the program tells it; one of several lines keeps them."""
    told = f"Error: {mistake}"
    if "\n" not in mistake:
        told = textwrap.fill(told, width=100, break_long_words=False, break_on_hyphens=False)
    return f"{told}\n"

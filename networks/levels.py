"""Levels of the anomaly map: which value a small share of normal pixels exceeds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import ArgumentError

DECADES = 4
N_LEVELS = 100 * DECADES + 1
"""Levels that are kept: of the shares 1 to 1e-4 of normal pixels, 100 a decade."""

HIGHEST_PERCENTILE = 100.0 - 100.0 * 10.0**-DECADES


def levels_of(ordered: Tensor) -> Tensor:
    """The levels of normal pixels.

    Args:
        ordered: their map values ``(N,)``, increasing.

    Returns:
        ``(N_LEVELS,)``: values that at most these shares of the pixels exceed.
    """
    shares = torch.logspace(0.0, -DECADES, N_LEVELS, dtype=torch.float64, device=ordered.device)
    return ordered[ranks(shares, len(ordered))]


def ranks(shares: Tensor, count: int) -> Tensor:
    """Ranks, from 0, of the values which at most these shares of ``count`` values exceed."""
    return (count * (1.0 - shares)).ceil().long().clamp_max(count - 1)


def level_at(levels: Tensor, percentile: float) -> float:
    """The map value at a percentile of the normal pixels.

    Args:
        levels: as `levels_of` gives them.
        percentile: in [0, `HIGHEST_PERCENTILE`].

    Returns:
        In standard deviations; interpolated over the logarithm of the share above it.

    Raises:
        ArgumentError: for a percentile out of that range.

    Example:
        >>> round(level_at(torch.linspace(0.0, 40.0, N_LEVELS), 99.0), 3)
        20.0
    """
    if not 0.0 <= percentile <= HIGHEST_PERCENTILE:
        raise ArgumentError(f"percentile: expected 0 to {HIGHEST_PERCENTILE:g}, got {percentile}.")
    share = max(1.0 - percentile / 100.0, 10.0**-DECADES)
    place = -math.log10(share) / DECADES * (N_LEVELS - 1)
    lower = min(int(place), N_LEVELS - 2)
    first, second = map(float, levels[lower : lower + 2])
    return first + (place - lower) * (second - first)

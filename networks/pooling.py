"""From standardised maps to one number: extreme values compressed, the highest positions pooled."""

from __future__ import annotations

import torch
from torch import Tensor

LINEAR_RANGE = 3.0
"""Standard deviations up to which `compress` leaves values about as they are."""

BOUND = 6.0
"""Standard deviations that `bounded` never exceeds."""


def compress(deviations: Tensor) -> Tensor:
    """Keeps ordinary standardised values and compresses extreme ones, in the same order.

    The likelihood of a strange image can lie thousands of standard deviations off; without this
    one position or one part would outweigh all others.

    Args:
        deviations: any shape, in standard deviations.

    Returns:
        ``k asinh(value / k)`` with k = `LINEAR_RANGE`: about the value itself up to k, then
        growing with its logarithm.
    """
    return LINEAR_RANGE * torch.asinh(deviations / LINEAR_RANGE)


def bounded(deviations: Tensor) -> Tensor:
    """Keeps ordinary compressed values and bounds extreme ones, in the same order.

    How many times a map exceeds all that calibration has seen tells how unlike anything it is, not
    how surely it is an anomaly: in a mean of maps it must not outweigh the others.

    Args:
        deviations: any shape, in standard deviations.
    """
    return BOUND * torch.tanh(deviations / BOUND)


def top_mean(value: Tensor, share: float) -> Tensor:
    """Mean of the highest share of positions.

    Args:
        value: a map ``(B, 1, *s)``.
        share: in (0, 1].

    Returns:
        ``(B,)``.
    """
    flat = value.flatten(1)
    if share >= 1.0:
        return flat.mean(dim=1)
    count = max(1, round(share * int(flat.shape[1])))  # a traced size is a tensor
    return flat.topk(count, dim=1).values.mean(dim=1)

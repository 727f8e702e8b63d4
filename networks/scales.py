"""Positive scales of an affine coupling, as functions from a sub-network's output to log scale.

AE-FLOW (ICLR 2023, section 3.2) makes the scale positive by Softplus; the clamped exponential is
that of Glow-like flows in FrEIA. Working with the logarithm gives the log-determinant directly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

LogScale = Callable[[Tensor, float], Tensor]
"""Maps (raw output, clamp) to the log scale, elementwise."""

_SOFTPLUS_OF_ONE = math.log(math.e - 1.0)
# Below this, log(softplus(x)) equals x to double precision, while softplus(x) may underflow.
_SOFTPLUS_IS_EXP = -36.0


def softplus_log_scale(raw: Tensor, clamp: float) -> Tensor:
    """Return log softplus(raw + log(e - 1)), softly bounded.

    The scale is 1 at raw = 0. The bound is clamp * tanh(log s / clamp).

    Args:
        raw: output of the sub-network, any shape and any finite value.
        clamp: bound of the log scale, positive.

    Returns:
        Log scale of the shape of `raw`, in [-clamp, clamp].

    Example:
        >>> softplus_log_scale(torch.zeros(1), 2.0).abs().item() < 1e-6
        True
    """
    shifted = raw + _SOFTPLUS_OF_ONE
    # The argument is bounded as well as the result chosen: a NaN gradient survives `where`.
    log_softplus = F.softplus(shifted.clamp_min(_SOFTPLUS_IS_EXP)).log()
    log_scale = torch.where(shifted < _SOFTPLUS_IS_EXP, shifted, log_softplus)
    return clamp * torch.tanh(log_scale / clamp)


def clamped_exp_log_scale(raw: Tensor, clamp: float) -> Tensor:
    """Return clamp * tanh(raw), the log scale of FrEIA's coupling blocks.

    Args:
        raw: output of the sub-network, any shape.
        clamp: bound of the log scale, positive.

    Returns:
        Log scale of the shape of `raw`, in [-clamp, clamp].
    """
    return clamp * torch.tanh(raw)


SCALES: Mapping[str, LogScale] = MappingProxyType(
    {"softplus": softplus_log_scale, "clamped_exp": clamped_exp_log_scale}
)
"""The scales to choose from."""

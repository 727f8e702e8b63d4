"""Changes of a window that do not make it anomalous, to see which scores mind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Change = Callable[[Tensor], Tensor]


def mild_signal_changes(strength: float = 1.0) -> dict[str, Change]:
    """The changes by name; each takes windows ``(B, C, L)`` in [0, 1] and gives such.

    At strength 1: noise of 0.01, a swing 5 % larger and smaller, a level 0.02 higher and lower, a
    mean over three samples, and a shift by a hundredth of the window.

    Args:
        strength: how far to go; at 2 everything is twice as strong.
    """
    return {
        "noise": lambda window: _noisy(window, 0.01 * strength),
        "larger swing": lambda window: _swung(window, 1.0 + 0.05 * strength),
        "smaller swing": lambda window: _swung(window, 1.0 - 0.05 * strength),
        "higher": lambda window: (window + 0.02 * strength).clamp(0.0, 1.0),
        "lower": lambda window: (window - 0.02 * strength).clamp(0.0, 1.0),
        "smoothed": lambda window: window + min(strength, 1.0) * (_smoothed(window) - window),
        "shifted": lambda window: _shifted(window, round(0.01 * strength * window.shape[-1])),
    }


def _noisy(window: Tensor, deviation: float) -> Tensor:
    source = torch.Generator().manual_seed(0)
    noise = torch.randn(window.shape, generator=source).to(window)
    return (window + deviation * noise).clamp(0.0, 1.0)


def _swung(window: Tensor, factor: float) -> Tensor:
    mean = window.mean(dim=-1, keepdim=True)
    return (mean + factor * (window - mean)).clamp(0.0, 1.0)


def _smoothed(window: Tensor) -> Tensor:
    return F.avg_pool1d(F.pad(window, (1, 1), mode="replicate"), 3, 1)


def _shifted(window: Tensor, samples: int) -> Tensor:
    samples = max(1, samples)
    return F.pad(window, (samples, 0), mode="replicate")[..., : window.shape[-1]]

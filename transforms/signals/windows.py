"""Windows of a signal, and maps of them back on its clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def window_starts(seen: NDArray[np.bool_], window: int, stride: int, longest: int = 0) -> list[int]:
    """Where the windows of a signal start: every `stride` samples between long gaps, and at both.

    Args:
        seen: which samples are there, ``(T,)``.
        window: samples of a window.
        stride: samples from one window to the next; the last one before a gap ends with it.
        longest: samples that a window may lack.

    Example:
        >>> window_starts(np.ones(10, dtype=bool), 4, 4)
        [0, 4, 6]
    """
    starts = set()
    for first, end in _stretches(seen, longest):
        if end - first >= window:
            starts |= {*range(first, end - window + 1, stride), end - window}
    lacking = np.concatenate([[0], np.cumsum(~seen)])
    return sorted(n for n in starts if lacking[n + window] - lacking[n] <= longest)


def _stretches(seen: NDArray[np.bool_], longest: int) -> list[tuple[int, int]]:
    """First sample and end of what lies between gaps of more than `longest` samples."""
    there = np.flatnonzero(seen)
    breaks = np.flatnonzero(np.diff(there) > longest + 1)
    firsts, lasts = [*there[:1], *there[breaks + 1]], [*there[breaks], *there[-1:]]
    return [(int(one), int(other) + 1) for one, other in zip(firsts, lasts, strict=True)]


def usual_stride(window: int, stride: int | None = None) -> int:
    """The stride that was asked for, or a quarter of the window."""
    return max(1, window // 4) if stride is None else int(stride)


@dataclass(frozen=True)
class SignalGeometry:
    """Where windows lie in the signal that they were cut from.

    Attributes:
        length: T, samples of the signal.
        window: L, samples of a window.
        starts: the first sample of each window that may be cut, increasing.
    """

    length: int
    window: int
    starts: tuple[int, ...]

    @property
    def slice_axis(self) -> int:
        """The axis that is cut: a signal has several windows, as a volume has slices."""
        return 0

    def cut(self, signal: Tensor, indices: Tensor | None = None) -> Tensor:
        """Windows ``(K, ..., L)`` of a signal ``(..., T)``, a copy; all or those of `indices`."""
        windows = signal.unfold(-1, self.window, 1)
        starts = torch.tensor(self.starts) if indices is None else self._starts(indices)
        return windows.index_select(-2, starts).movedim(-2, 0).contiguous()

    def blend(self, windows: Tensor, indices: Tensor) -> Tensor:
        """Joins windows ``(K, ..., L)`` to a signal ``(..., T)``.

        Where several overlap, each counts by its distance from its own ends, where it knows
        least of what lies around. NaN where there is no window.
        """
        ramp = torch.arange(1, self.window + 1, dtype=torch.float64)
        weight = torch.minimum(ramp, ramp.flip(0))
        total = torch.zeros(*windows.shape[1:-1], self.length, dtype=torch.float64)
        counted = torch.zeros(self.length, dtype=torch.float64)
        for one, start in zip(windows.double(), self._starts(indices).tolist(), strict=True):
            where = slice(start, start + self.window)
            total[..., where] += weight * one
            counted[where] += weight
        return (total / counted).to(windows.dtype)

    def _starts(self, indices: Tensor) -> Tensor:
        return torch.tensor(self.starts)[indices]

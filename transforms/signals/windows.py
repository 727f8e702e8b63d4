"""Windows of a signal, and maps of them back on its clock."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows of a signal start: every `stride` samples, and one that ends with it.

    Example:
        >>> window_starts(10, 4, 4)
        [0, 4, 6]
    """
    last = length - window
    if last < 0:
        return []
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]


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

"""Structural similarity (Wang et al., IEEE TIP 2004) by separable windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import ArgumentError
from .spatial import axes_of, multiplied, size_of

SIDE, SIGMA = 11, 1.5
"""The usual window, in pixels."""

C1, C2 = 0.01**2, 0.03**2
"""The constants that keep the ratio stable, for values in [0, 1]."""


def check_window(image: Tensor) -> None:
    """Refuses an image ``(B, C, *s)`` that the window does not fit into.

    Raises:
        ArgumentError: for fewer than 11 pixels along an axis.
    """
    size = size_of(image)
    if min(size) < SIDE:
        raise ArgumentError(
            f"image: expected at least {SIDE} pixels along each axis, got "
            f"{' x '.join(map(str, size))}; give larger images or patches."
        )


class StructuralSimilarity(nn.Module):
    """The mean SSIM of two images, as MONAI's `compute_ssim_and_cs` gives it.

    MONAI runs the 11 x 11 window as a convolution; axis by axis is a sixth of that work.
    """

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        offsets = torch.arange(SIDE) - SIDE // 2
        window = torch.exp(-0.5 * (offsets / SIGMA).square())
        self.register_buffer("window", window / window.sum(), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """SSIM of images ``(B, C, *s)`` in [0, 1] that pass `check_window`: ``(B,)``."""
        means = self._windowed(torch.cat([x, y, x * x, y * y, x * y], dim=1))
        mean_x, mean_y, xx, yy, xy = means.chunk(5, dim=1)
        contrast = (2 * (xy - mean_x * mean_y) + C2) / (xx - mean_x**2 + yy - mean_y**2 + C2)
        luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
        return (luminance * contrast).flatten(1).mean(dim=1)

    def _windowed(self, maps: Tensor) -> Tensor:
        if torch.compiler.is_dynamo_compiling():  # which makes one kernel of the shifted sums
            for axis in reversed(axes_of(maps)):
                maps = self._shifted(maps, axis)
            return maps
        return multiplied(maps, [self._band(length).mT for length in size_of(maps)])

    def _shifted(self, maps: Tensor, dim: int) -> Tensor:
        length = maps.shape[dim] - SIDE + 1
        total = self.window[0] * maps.narrow(dim, 0, length)
        for start in range(1, SIDE):
            total = total + self.window[start] * maps.narrow(dim, start, length)
        return total

    def _band(self, length: int) -> Tensor:
        """The window at every place, ``(length, length - 10)``."""
        each = torch.eye(length, dtype=self.window.dtype, device=self.window.device)
        return F.conv1d(each[:, None], self.window[None, None])[:, 0]

"""Local contrast: each pixel against its surroundings, which takes the exposure out of an image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .spatial import multiplied, size_of

CONTRASTS = ("none", "local")
"""How the contrast of an image may be normalised."""

SURROUNDINGS = 20 / 224
"""Standard deviation of the Gaussian that weighs the surroundings, as a share of the last axis."""

LEAST_DEVIATION = 0.03
"""Added to the local deviation, so that the noise of a flat background is no structure."""

LIMIT = 2.75
"""Largest absolute value that is kept."""


class Surroundings(NamedTuple):
    """What each pixel is compared with.

    Attributes:
        mean: Gaussian-weighted mean around it, ``(B, C, *s)``.
        scale: likewise the standard deviation, plus `LEAST_DEVIATION`.
    """

    mean: Tensor
    scale: Tensor


def surroundings(image: Tensor) -> Surroundings:
    """The local moments of an image ``(B, C, *s)`` in [0, 1], channel by channel."""
    sigma = SURROUNDINGS * image.shape[-1]
    # In bfloat16 the difference from the mean would be lost.
    with torch.autocast(image.device.type, enabled=False):
        mean = gaussian_blur(image, sigma)
        variance = gaussian_blur((image - mean).square(), sigma)
    return Surroundings(mean, variance.clamp_min(1e-6).sqrt() + LEAST_DEVIATION)


def local_contrast(image: Tensor) -> Tensor:
    """Each pixel of ``(B, C, *s)`` in local standard deviations, within ±`LIMIT`."""
    around = surroundings(image)
    return ((image - around.mean) / around.scale).clamp(-LIMIT, LIMIT)


def gaussian_blur(image: Tensor, sigma: float | Tensor) -> Tensor:
    """Gaussian blur of ``(B, C, *s)``; at the borders over what lies inside.

    Args:
        image: what is blurred.
        sigma: the standard deviation in pixels, one for all or one per image ``(B,)``.
    """
    width = sigma.view(-1, *[1] * (image.ndim - 1)) if isinstance(sigma, Tensor) else sigma
    return multiplied(image, [_blur_matrix(size, width, image) for size in size_of(image)])


def _blur_matrix(size: int, width: float | Tensor, like: Tensor) -> Tensor:
    """Matrices ``(..., size, size)`` that blur a line of pixels."""
    place = torch.arange(size, device=like.device, dtype=like.dtype)
    weights = torch.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
    return weights / weights.sum(dim=-1, keepdim=True)

"""Batched variation of normal images, on the device the images are on.

Every function takes its randomness from a `torch.Generator`, so that a batch is a function of the
generator's seed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class NormalVariation:
    """How far normal images are varied.

    Attributes:
        rotation: largest rotation in degrees.
        zoom: range of the magnification.
        shift: largest shift as a share of the image's side.
        flip: probability of a left-right flip.
        gamma: largest absolute logarithm of the gamma exponent.
        contrast: largest relative change of contrast.
        brightness: largest change of brightness, images being in [0, 1].
        sharpness: range of the high-pass gain; -1 blurs, positive values sharpen.
        noise: largest standard deviation of added noise.
    """

    rotation: float = 10.0
    zoom: tuple[float, float] = (0.9, 1.25)
    shift: float = 0.05
    flip: float = 0.5
    gamma: float = 0.3
    contrast: float = 0.2
    brightness: float = 0.1
    sharpness: tuple[float, float] = (-1.0, 1.5)
    noise: float = 0.03


def uniform(
    shape: tuple[int, ...], low: float, high: float, like: Tensor, generator: torch.Generator
) -> Tensor:
    """Uniform numbers of a shape, on the device of ``like``."""
    return torch.rand(shape, generator=generator, device=like.device) * (high - low) + low


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of ``(B, C, H, W)``, reflecting at the borders.

    Rows and columns are blurred by matrix products, which on a GPU are many times faster than
    convolutions of a single channel.
    """
    height, width = image.shape[-2:]
    rows = _blur_matrix(height, sigma, image.device, image.dtype)
    columns = _blur_matrix(width, sigma, image.device, image.dtype)
    return rows @ image @ columns.T


@lru_cache(maxsize=32)
def _blur_matrix(size: int, sigma: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix ``(size, size)`` that blurs a line of pixels."""
    radius = min(max(1, math.ceil(3 * sigma)), size - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    lines = F.pad(torch.eye(size, dtype=torch.float64)[:, None], (radius, radius), mode="reflect")
    blurred = F.conv1d(lines, (kernel / kernel.sum()).view(1, 1, -1))[:, 0]
    return blurred.T.contiguous().to(device=device, dtype=dtype)


def vary_normals(
    image: Tensor, generator: torch.Generator, variation: NormalVariation | None = None
) -> Tensor:
    """Varies normal images in geometry, intensity, sharpness and noise.

    Sharpening as well as blurring matters: without it a detector learns that smooth is normal.

    Args:
        image: ``(B, C, H, W)`` in [0, 1]; pixels that are exactly 0 in every channel are
            background and stay 0.
        generator: source of all randomness, on the image's device.
        variation: how far to go.

    Returns:
        ``(B, C, H, W)`` in [0, 1].
    """
    variation = variation or NormalVariation()
    moved = _move(image, generator, variation)
    body = (moved.amax(dim=1, keepdim=True) > 1e-3).to(moved.dtype)
    changed = _change_sharpness(moved, generator, variation)
    changed = _change_intensity(changed, generator, variation)
    level = uniform((len(image), 1, 1, 1), 0.0, variation.noise, image, generator)
    changed = changed + level * torch.randn(
        image.shape, generator=generator, device=image.device, dtype=image.dtype
    )
    return changed.clamp(0.0, 1.0) * body


def _move(image: Tensor, generator: torch.Generator, variation: NormalVariation) -> Tensor:
    batch = (len(image),)
    limit = math.radians(variation.rotation)
    angle = uniform(batch, -limit, limit, image, generator)
    scale = 1.0 / uniform(batch, *variation.zoom, image, generator)
    flip = torch.where(uniform(batch, 0.0, 1.0, image, generator) < variation.flip, -1.0, 1.0)
    shift = uniform((len(image), 2), -2 * variation.shift, 2 * variation.shift, image, generator)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack(
        [
            torch.stack([cos * flip, -sin, shift[:, 0]], dim=1),
            torch.stack([sin * flip, cos, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta.to(image.dtype), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)


def _change_sharpness(
    image: Tensor, generator: torch.Generator, variation: NormalVariation
) -> Tensor:
    batch = (len(image), 1, 1, 1)
    fine, coarse = gaussian_blur(image, 0.8), gaussian_blur(image, 2.0)
    mix = uniform(batch, 0.0, 1.0, image, generator)
    gain = uniform(batch, *variation.sharpness, image, generator)
    used = uniform(batch, 0.0, 1.0, image, generator) < 0.7
    smooth = mix * fine + (1 - mix) * coarse
    return torch.where(used, image + gain * (image - smooth), image)


def _change_intensity(
    image: Tensor, generator: torch.Generator, variation: NormalVariation
) -> Tensor:
    batch = (len(image), 1, 1, 1)
    exponent = uniform(batch, -variation.gamma, variation.gamma, image, generator).exp()
    contrast = 1.0 + uniform(batch, -variation.contrast, variation.contrast, image, generator)
    brightness = uniform(batch, -variation.brightness, variation.brightness, image, generator)
    bent = image.clamp(0.0, 1.0) ** exponent
    mean = bent.mean(dim=(1, 2, 3), keepdim=True)
    return (bent - mean) * contrast + mean + brightness

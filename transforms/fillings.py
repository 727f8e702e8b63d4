"""What stands inside synthetic anomalies, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from transforms.augment import (
    Source,
    gaussian_blur,
    log_uniform,
    per_channel,
    per_image,
    smooth_noise,
    uniform,
)
from transforms.recipe import AnomalyRecipe

BLACK = 1e-3
"""Up to here an image that was moved between its pixels counts as background."""

MOST_CLASSES = 8
"""Classes of grey in a tissue's bias; an image has up to as many."""

DEFORMATION = (0.01, 0.04)
"""Range of the displacement's standard deviation, as a share of the image's side."""

Filling = Callable[[Tensor, Source, AnomalyRecipe], Tensor]
"""Turns images ``(B, C, H, W)`` in [0, 1] into what they would be if anomalous everywhere."""


def opacity(image: Tensor, generator: Source, recipe: AnomalyRecipe) -> Tensor:
    """Brighter, with a texture."""
    texture = 1.0 + 0.3 * smooth_noise(image, generator, (16, 32))
    return image + 0.35 * _strength(image, generator, *recipe.contrast) * texture


def darkening(image: Tensor, generator: Source, recipe: AnomalyRecipe) -> Tensor:
    """Darker, with a texture."""
    texture = 1.0 + 0.3 * smooth_noise(image, generator, (16, 32))
    return image - 0.35 * _strength(image, generator, *recipe.contrast) * texture


def haze(image: Tensor, generator: Source, recipe: AnomalyRecipe) -> Tensor:
    """Veiled by a level of its own."""
    level = uniform(per_channel(image), 0.3, 0.95, image, generator)
    veil = level + 0.05 * smooth_noise(image, generator, (16, 32))
    return image + _strength(image, generator, *recipe.contrast) * (veil - image)


def blurred(image: Tensor, generator: Source, recipe: AnomalyRecipe) -> Tensor:
    """Without its detail."""
    strength = uniform(per_image(image), 0.6, 1.0, image, generator)
    return image + strength * (gaussian_blur(image, 4.0) - image)


def flattened(image: Tensor, generator: Source, recipe: AnomalyRecipe) -> Tensor:
    """Brighter, with structures of less contrast, as in consolidated lungs."""
    mean = gaussian_blur(image, min(image.shape[-2:]) / 28)
    kept = uniform(per_image(image), 0.2, 0.8, image, generator)
    texture = 1.0 + 0.2 * smooth_noise(image, generator, (16, 32))
    return mean + kept * (image - mean) + 0.25 * _strength(image, generator, 0.0, 1.0) * texture


def reticular(image: Tensor, generator: Source, recipe: AnomalyRecipe) -> Tensor:
    """Brighter, with a net of lines some pixels apart."""
    each = per_image(image)
    noise = torch.randn(
        (len(image), 1, *image.shape[2:]),
        generator=generator,
        device=image.device,
        dtype=image.dtype,
    )
    sigma = log_uniform(each, 0.8, 2.5, image, generator)
    lines = gaussian_blur(noise, sigma) - gaussian_blur(noise, 2.8 * sigma)
    lines = lines / lines.std(dim=tuple(range(1, image.ndim)), keepdim=True)
    depth = uniform(each, 0.02, 0.1, image, generator)
    return image + depth * lines + 0.15 * _strength(image, generator, 0.0, 1.0)


def foreign(image: Tensor, generator: Source, recipe: AnomalyRecipe) -> Tensor:
    """Shifted parts of another image, upright or upside down, with this one's mean and contrast.

    Where the other is black, this image.
    """
    height, width = image.shape[-2:]
    shift = torch.randint(
        1, max(2, min(height, width) // 4), (2,), generator=generator, device=image.device
    )
    rows = (torch.arange(height, device=image.device) + shift[0]) % height
    columns = (torch.arange(width, device=image.device) + shift[1]) % width
    moved = torch.roll(image, shifts=1, dims=0)[..., rows, :][..., columns]
    upright = uniform(per_image(image), 0.0, 1.0, image, generator) < 0.5
    other = torch.where(upright, moved, torch.flip(moved, dims=(-2,)))
    (mean, std), (own_mean, own_std) = _moments(other), _moments(image)
    matched = (other - mean) / std * own_std + own_mean
    return torch.where(other.amax(dim=1, keepdim=True) > BLACK, matched, image)


def tissue(image: Tensor, generator: Source, recipe: AnomalyRecipe) -> Tensor:
    """Some classes of grey brighter, others darker: a bias on quantised intensities."""
    each = per_image(image)
    count = uniform(each, 2.0, MOST_CLASSES - 1.0, image, generator)
    phase = uniform(each, 0.0, 1.0, image, generator)
    classes = (gaussian_blur(image, 1.0).clamp(0.0, 1.0) * count + phase).long()
    bias = uniform((*image.shape[:2], MOST_CLASSES), -0.35, 0.35, image, generator)
    shift = bias.gather(2, classes.flatten(2)).view_as(image)
    return image + shift * _strength(image, generator, *recipe.contrast)


def deformed(image: Tensor, generator: Source, recipe: AnomalyRecipe) -> Tensor:
    """Pushed and pulled out of shape, as around a mass."""
    axes = image.ndim - 2
    still = torch.eye(axes, axes + 1, device=image.device, dtype=image.dtype)
    grid = F.affine_grid(still.expand(len(image), -1, -1), list(image.shape), align_corners=False)
    push = [smooth_noise(image, generator, (8, 16))[:, 0] for _ in range(axes)]
    reach = uniform(per_image(image), *DEFORMATION, image, generator)
    moved = grid + 2 * reach * torch.stack(push, dim=-1)
    return F.grid_sample(image, moved, padding_mode="reflection", align_corners=False)


FILLINGS: Mapping[str, Filling] = MappingProxyType(
    {
        "opacity": opacity,
        "haze": haze,
        "flattened": flattened,
        "reticular": reticular,
        "darkening": darkening,
        "blurred": blurred,
        "foreign": foreign,
        "tissue": tissue,
        "deformed": deformed,
    }
)
"""The fillings to choose from."""


def _strength(image: Tensor, generator: Source, low: float, high: float) -> Tensor:
    """Strength per image and channel, so that several modalities differ in how they show it."""
    common = uniform(per_image(image), low, high, image, generator)
    channel = uniform(per_channel(image), 0.3, 1.0, image, generator)
    return common * channel if image.shape[1] > 1 else common


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``(B, C, 1, 1)`` of what is not black."""
    axes = tuple(range(2, image.ndim))
    shown = (image.amax(dim=1, keepdim=True) > BLACK).to(image.dtype)
    count = shown.sum(dim=axes, keepdim=True).clamp_min(1.0)
    mean = (image * shown).sum(dim=axes, keepdim=True) / count
    square = ((image - mean).square() * shown).sum(dim=axes, keepdim=True) / count
    return mean, square.sqrt().clamp_min(1e-3)

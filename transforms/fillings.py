"""What stands inside synthetic anomalies, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from transforms.augment import gaussian_blur, log_uniform, uniform
from transforms.recipe import AnomalyRecipe
from transforms.shapes import smooth_noise

Filling = Callable[[Tensor, torch.Generator, AnomalyRecipe], Tensor]
"""Turns images ``(B, C, H, W)`` in [0, 1] into what they would be if anomalous everywhere."""


def opacity(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    """Brighter, with a texture."""
    texture = 1.0 + 0.3 * smooth_noise(image, generator, (16, 32))
    return image + 0.35 * _strength(image, generator, *recipe.contrast) * texture


def darkening(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    """Darker, with a texture."""
    texture = 1.0 + 0.3 * smooth_noise(image, generator, (16, 32))
    return image - 0.35 * _strength(image, generator, *recipe.contrast) * texture


def haze(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    """Veiled by a level of its own."""
    level = uniform((*image.shape[:2], 1, 1), 0.3, 0.95, image, generator)
    veil = level + 0.05 * smooth_noise(image, generator, (16, 32))
    return image + _strength(image, generator, *recipe.contrast) * (veil - image)


def blurred(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    """Without its detail."""
    strength = uniform((len(image), 1, 1, 1), 0.6, 1.0, image, generator)
    return image + strength * (gaussian_blur(image, 4.0) - image)


def flattened(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    """Brighter, with structures of less contrast, as in consolidated lungs."""
    mean = gaussian_blur(image, min(image.shape[-2:]) / 28)
    kept = uniform((len(image), 1, 1, 1), 0.2, 0.8, image, generator)
    texture = 1.0 + 0.2 * smooth_noise(image, generator, (16, 32))
    return mean + kept * (image - mean) + 0.25 * _strength(image, generator, 0.0, 1.0) * texture


def reticular(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    """Brighter, with a net of lines some pixels apart."""
    each = (len(image), 1, 1, 1)
    noise = torch.randn(
        (len(image), 1, *image.shape[-2:]),
        generator=generator,
        device=image.device,
        dtype=image.dtype,
    )
    sigma = log_uniform(each, 0.8, 2.5, image, generator)
    lines = gaussian_blur(noise, sigma) - gaussian_blur(noise, 2.8 * sigma)
    lines = lines / lines.std(dim=(1, 2, 3), keepdim=True)
    depth = uniform(each, 0.02, 0.1, image, generator)
    return image + depth * lines + 0.15 * _strength(image, generator, 0.0, 1.0)


def foreign(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    """Shifted parts of another image, upright or upside down; where that is black, the own."""
    height, width = image.shape[-2:]
    shift = torch.randint(
        1, max(2, min(height, width) // 2), (2,), generator=generator, device=image.device
    )
    rows = (torch.arange(height, device=image.device) + shift[0]) % height
    columns = (torch.arange(width, device=image.device) + shift[1]) % width
    moved = torch.roll(image, shifts=1, dims=0)[:, :, rows][:, :, :, columns]
    upright = uniform((len(image), 1, 1, 1), 0.0, 1.0, image, generator) < 0.5
    other = torch.where(upright, moved, torch.flip(moved, dims=(-2,)))
    return torch.where(other.amax(dim=1, keepdim=True) > 1e-3, other, image)


FILLINGS: Mapping[str, Filling] = MappingProxyType(
    {
        "opacity": opacity,
        "haze": haze,
        "flattened": flattened,
        "reticular": reticular,
        "darkening": darkening,
        "blurred": blurred,
        "foreign": foreign,
    }
)
"""The fillings to choose from."""


def _strength(image: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    """Strength per image and channel, so that several modalities differ in how they show it."""
    common = uniform((len(image), 1, 1, 1), low, high, image, generator)
    channel = uniform((*image.shape[:2], 1, 1), 0.3, 1.0, image, generator)
    return common * channel if image.shape[1] > 1 else common

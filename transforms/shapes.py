"""Shapes of synthetic anomalies: soft masks inside a region, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from transforms.augment import Source, gaussian_blur, log_uniform, per_image, smooth_noise, uniform
from transforms.recipe import AnomalyRecipe

Shape = Callable[[Tensor, Source, AnomalyRecipe], Tensor]
"""Makes soft masks ``(B, 1, H, W)`` in [0, 1] for regions of that shape, in [0, 1]."""


def ellipses(region: Tensor, generator: Source, recipe: AnomalyRecipe) -> Tensor:
    """Ellipses with noisy borders, centred in the region; most are confined to it."""
    (height, width), each = region.shape[-2:], per_image(region)
    per_axis = (len(region), region.ndim - 2, *each[1:])
    centre = _random_centres(region > 0.5, generator).view(per_axis)
    radius = log_uniform(per_axis, *recipe.radius, region, generator)
    radius = radius * min(height, width)
    # Very thin ellipses are no lesions: the axes stay within a factor of three.
    radius = torch.maximum(radius, radius.amax(dim=1, keepdim=True) / 3)
    angle = uniform(each, 0.0, math.pi, region, generator)
    *slices, rows, columns = (
        torch.arange(length, device=region.device).view(-1, *each[axis + 3 :]) - centre[:, axis]
        for axis, length in enumerate(region.shape[2:])
    )
    along = columns * torch.cos(angle) + rows * torch.sin(angle)
    across = rows * torch.cos(angle) - columns * torch.sin(angle)
    square = (along / radius[:, -2]) ** 2 + (across / radius[:, -1]) ** 2
    for through in slices:
        square = square + (through / radius[:, 0]) ** 2
    distance = torch.sqrt(square)
    border = uniform(each, *recipe.roughness, region, generator)
    border = border * smooth_noise(region, generator, (8, 16, 32))
    softness = 0.25 * uniform(each, *recipe.softness, region, generator)
    confined = uniform(each, 0.0, 1.0, region, generator) < recipe.inside_share
    gate = torch.where(confined, region, torch.ones_like(region))
    return gate * torch.sigmoid((1.0 + border - distance) / softness)


def patches(region: Tensor, generator: Source, recipe: AnomalyRecipe) -> Tensor:
    """Many foci at once: smooth noise above a threshold."""
    each = per_image(region)
    coarse, fine = (smooth_noise(region, generator, grids) for grids in ((6, 12), (12, 24)))
    noise = torch.where(uniform(each, 0.0, 1.0, region, generator) < 0.5, coarse, fine)
    threshold = uniform(each, 0.2, 1.2, region, generator)
    return region * torch.sigmoid((noise - threshold) / uniform(each, 0.08, 0.4, region, generator))


def diffuse(region: Tensor, generator: Source, recipe: AnomalyRecipe) -> Tensor:
    """The left, the right (a quarter of the images each) or the whole region, unevenly."""
    width, each = region.shape[-1], per_image(region)
    side = uniform(each, 0.0, 1.0, region, generator)
    columns = torch.arange(width, device=region.device).expand(len(region), 1, *region.shape[2:])
    left = 2 * columns < width
    sides = torch.where(side < 0.25, left, torch.where(side < 0.5, ~left, torch.ones_like(left)))
    soft = gaussian_blur(sides.to(region.dtype), width / 56)
    uneven = 1.5 * smooth_noise(region, generator, (4, 8)) + 0.5
    return region * soft * torch.sigmoid(uneven)


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {"ellipse": ellipses, "patches": patches, "diffuse": diffuse}
)
"""The shapes to choose from."""


def _random_centres(allowed: Tensor, generator: Source) -> Tensor:
    """Row and column ``(B, 2)`` of a pixel in ``allowed`` ``(B, 1, H, W)``, else of any."""
    # `torch.multinomial` and `torch.unravel_index` would wait for the device.
    lots = uniform((len(allowed), allowed[0].numel()), 0.0, 1.0, allowed, generator)
    flat = (lots + allowed.flatten(1)).argmax(dim=1)
    places: list[Tensor] = []
    for side in reversed(allowed.shape[2:]):
        places.insert(0, flat % side)
        flat = flat // side
    return torch.stack(places, dim=1)

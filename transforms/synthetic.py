"""Synthetic anomalies pasted into normal images, batched and on the device.

A detector that learns to find them needs nobody's labels: the anomalies are made up, the images
are the user's own normals. All randomness comes from one `torch.Generator`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from transforms.augment import NormalVariation, gaussian_blur, uniform, vary_normals


@dataclass(frozen=True)
class AnomalyRecipe:
    """How synthetic anomalies look.

    Attributes:
        clean_share: share of the images that are left without an anomaly.
        radius: range of the ellipses' half axes as a share of the image's side.
        second_share: share of the anomalous images that get a second anomaly.
        contrast: range of the relative strength of an anomaly.
        roughness: range of the amplitude of the border's noise, in radii.
        softness: range of the border's width, in radii.
        least_change: smallest mean absolute change that counts as an anomaly.
    """

    clean_share: float = 0.375
    radius: tuple[float, float] = (0.03, 0.25)
    second_share: float = 0.4
    contrast: tuple[float, float] = (0.15, 1.0)
    roughness: tuple[float, float] = (0.1, 0.7)
    softness: tuple[float, float] = (0.05, 0.5)
    least_change: float = 0.015


class SyntheticAnomalies:
    """Varies normal images and pastes anomalies into some of them.

    Args:
        recipe: how the anomalies look.
        variation: how far the normal images themselves are varied; None leaves them as they are.
    """

    def __init__(
        self, recipe: AnomalyRecipe | None = None, variation: NormalVariation | None = None
    ) -> None:
        self.recipe = recipe or AnomalyRecipe()
        self.variation = variation

    def __call__(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Makes a training batch.

        Args:
            image: normal images ``(B, C, H, W)`` in [0, 1], background exactly 0.
            generator: source of all randomness, on the image's device.

        Returns:
            The images with anomalies ``(B, C, H, W)`` in [0, 1] and their masks
            ``(B, 1, H, W)``, 1 inside an anomaly.
        """
        if self.variation is not None:
            image = vary_normals(image, generator, self.variation)
        order = torch.randperm(len(image), generator=generator, device=image.device)
        result, mask = image[order], torch.zeros_like(image[:, :1])
        # Work is done only where it shows: on the anomalous images, and again on some of them.
        clean = round(self.recipe.clean_share * len(image))
        once = self.recipe.second_share * (len(image) - clean)
        for start in (clean, len(image) - round(once)):
            result[start:], added = self._paste(result[start:], generator)
            mask[start:] = torch.maximum(mask[start:], added)
        back = torch.argsort(order)
        return result[back], mask[back]

    def _paste(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if not len(image):
            return image, image[:, :1]
        body = (image.amax(dim=1, keepdim=True) > 1e-3).to(image.dtype)
        soft = random_blobs(image, body, generator, self.recipe) * body
        filling = _random_filling(image, generator, self.recipe)
        changed = (image + soft * (filling - image)).clamp(0.0, 1.0) * body
        visible = gaussian_blur((changed - image).abs().mean(dim=1, keepdim=True), 1.5)
        mask = (soft > 0.4) & (visible > self.recipe.least_change)
        return changed, mask.to(image.dtype)


def random_blobs(
    image: Tensor, allowed: Tensor, generator: torch.Generator, recipe: AnomalyRecipe
) -> Tensor:
    """Soft elliptic masks with noisy borders, centred inside ``allowed``.

    Args:
        image: ``(B, C, H, W)``, for shape and device.
        allowed: where a centre may lie, ``(B, 1, H, W)``.
        generator: source of all randomness.
        recipe: sizes, roughness and softness.

    Returns:
        ``(B, 1, H, W)`` in [0, 1].
    """
    size, (height, width) = len(image), image.shape[-2:]
    centre = _random_centres(allowed, generator)
    low, high = (math.log(r) for r in recipe.radius)
    radius = uniform((size, 2), low, high, image, generator).exp() * min(height, width)
    # Very thin ellipses are no lesions: the axes stay within a factor of three.
    radius = torch.maximum(radius, radius.amax(dim=1, keepdim=True) / 3)
    angle = uniform((size, 1, 1), 0.0, math.pi, image, generator)
    rows = torch.arange(height, device=image.device).view(1, -1, 1) - centre[:, 0].view(-1, 1, 1)
    columns = torch.arange(width, device=image.device).view(1, 1, -1) - centre[:, 1].view(-1, 1, 1)
    along = columns * torch.cos(angle) + rows * torch.sin(angle)
    across = rows * torch.cos(angle) - columns * torch.sin(angle)
    distance = torch.sqrt(
        (along / radius[:, 0].view(-1, 1, 1)) ** 2 + (across / radius[:, 1].view(-1, 1, 1)) ** 2
    ).unsqueeze(1)
    batch = (size, 1, 1, 1)
    rough = uniform(batch, *recipe.roughness, image, generator)
    soft = uniform(batch, *recipe.softness, image, generator)
    border = rough * _smooth_noise(image, generator, (8, 16, 32))
    return torch.sigmoid((1.0 + border - distance) / (0.25 * soft))


def _random_centres(allowed: Tensor, generator: torch.Generator) -> Tensor:
    height, width = allowed.shape[-2:]
    weights = allowed.flatten(1) + 1e-6
    flat = torch.multinomial(weights, 1, generator=generator).squeeze(1)
    return torch.stack([flat // width, flat % width], dim=1).to(allowed.dtype)


def _smooth_noise(image: Tensor, generator: torch.Generator, grids: tuple[int, ...]) -> Tensor:
    """Noise of unit variance ``(B, 1, H, W)``, a sum of random grids of several finenesses."""
    total = torch.zeros_like(image[:, :1])
    for grid in grids:
        coarse = torch.randn(
            (len(image), 1, grid, grid),
            generator=generator,
            device=image.device,
            dtype=image.dtype,
        )
        total = total + F.interpolate(
            coarse, size=image.shape[-2:], mode="bilinear", align_corners=False
        )
    return total / math.sqrt(len(grids))


def _random_filling(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    """What stands inside the anomaly: the kinds take turns over the images of a shuffled batch."""
    fillings: list[Callable[[Tensor, torch.Generator, AnomalyRecipe], Tensor]] = [
        _opacity,
        _opacity,
        _haze,
        _darkening,
        _blurred,
    ]
    turns = len(fillings) + 1
    result = _foreign(image, generator, turns)
    for turn, filling in enumerate(fillings, start=1):
        if len(image) > turn:
            result[turn::turns] = filling(image[turn::turns], generator, recipe)
    return result


def _strength(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    """Strength per image and channel, so that several modalities differ in how they show it."""
    low, high = recipe.contrast
    common = uniform((len(image), 1, 1, 1), low, high, image, generator)
    channel = uniform((*image.shape[:2], 1, 1), 0.3, 1.0, image, generator)
    return common * channel if image.shape[1] > 1 else common


def _opacity(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    texture = 1.0 + 0.3 * _smooth_noise(image, generator, (16, 32))
    return image + 0.35 * _strength(image, generator, recipe) * texture


def _haze(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    level = uniform((*image.shape[:2], 1, 1), 0.3, 0.95, image, generator)
    texture = level + 0.05 * _smooth_noise(image, generator, (16, 32))
    strength = _strength(image, generator, recipe)
    return image + strength * (texture - image)


def _darkening(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    texture = 1.0 + 0.3 * _smooth_noise(image, generator, (16, 32))
    return image - 0.35 * _strength(image, generator, recipe) * texture


def _foreign(image: Tensor, generator: torch.Generator, turns: int) -> Tensor:
    """A copy of the images in which every ``turns``-th shows shifted parts of its neighbour."""
    height, width = image.shape[-2:]
    shift = torch.randint(
        1, max(2, min(height, width) // 2), (2,), generator=generator, device=image.device
    )
    own = image[::turns]
    donors = torch.roll(image, shifts=1, dims=0)[::turns]
    rows = (torch.arange(height, device=image.device) + shift[0]) % height
    columns = (torch.arange(width, device=image.device) + shift[1]) % width
    moved = donors[:, :, rows][:, :, :, columns]
    upright = uniform((len(own), 1, 1, 1), 0.0, 1.0, image, generator) < 0.5
    foreign = torch.where(upright, moved, torch.flip(moved, dims=(-2,)))
    result = image.clone()
    result[::turns] = torch.where(foreign.amax(dim=1, keepdim=True) > 1e-3, foreign, own)
    return result


def _blurred(image: Tensor, generator: torch.Generator, recipe: AnomalyRecipe) -> Tensor:
    strength = uniform((len(image), 1, 1, 1), 0.6, 1.0, image, generator)
    return image + strength * (gaussian_blur(image, 4.0) - image)

"""Batched variation of normal images, on the device the images are on.

Every function takes its randomness from a `Source`, so that a batch is a function of its seed
alone. None waits for the device, and no shape depends on the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Source = torch.Generator | None
"""A generator on the images' device; None for PyTorch's own, which compiled code can draw from."""

SHARPENED = 0.7
"""Share of the images whose high frequencies are raised or lowered."""

BLURRED = 0.6
"""Share of the images that are then blurred."""

REFERENCE_SIDE = 224
"""Side of the image in whose pixels lengths are given; they grow with the image."""

LEAST_SIGMA = 0.01
"""Standard deviation, in pixels, of a Gaussian that changes nothing."""

VOLUME_NDIM = 5
"""Axes of a batch of volumes; below, H and W stand for D, H and W of such."""

LINEAR = {4: "bilinear", VOLUME_NDIM: "trilinear"}
"""Names of linear interpolation, by a batch's axes."""


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
        blur: range of the standard deviation of a Gaussian, log-uniform, in pixels of an image of
            side 224.
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
    blur: tuple[float, float] = (0.4, 1.5)
    noise: float = 0.03


VARIATIONS = {
    # Whether a chest radiograph is sharp depends on the machine more than on the patient.
    "lungs": NormalVariation(blur=(0.4, 3.0)),
}
"""Variations by the region that anomalies lie in."""


def variation_for(region: str) -> NormalVariation:
    """The variation for a region; one without a variation of its own takes the default."""
    return VARIATIONS.get(region, NormalVariation())


def uniform(
    shape: tuple[int, ...], low: float, high: float, like: Tensor, generator: Source
) -> Tensor:
    """Uniform numbers of a shape, on the device of ``like``."""
    return torch.rand(shape, generator=generator, device=like.device) * (high - low) + low


def log_uniform(
    shape: tuple[int, ...], low: float, high: float, like: Tensor, generator: Source
) -> Tensor:
    """Positive numbers whose logarithms are uniform, on the device of ``like``."""
    return uniform(shape, math.log(low), math.log(high), like, generator).exp()


def per_image(image: Tensor) -> tuple[int, ...]:
    """The shape ``(B, 1, 1, 1)`` of one number per image."""
    return (len(image), *(1 for _ in image.shape[1:]))


def per_channel(image: Tensor) -> tuple[int, ...]:
    """The shape ``(B, C, 1, 1)`` of one number per image and channel."""
    return (*image.shape[:2], *(1 for _ in image.shape[2:]))


def smooth_noise(like: Tensor, generator: Source, grids: tuple[int, ...]) -> Tensor:
    """Noise of about unit variance ``(B, 1, H, W)``: random grids of several finenesses, summed."""
    total = torch.zeros_like(like[:, :1])
    depth, side = like.shape[2:-2], min(like.shape[-2:])
    for grid in grids:
        cells = (*(max(2, round(grid * size / side)) for size in depth), grid, grid)
        coarse = torch.randn(
            (len(like), 1, *cells), generator=generator, device=like.device, dtype=like.dtype
        )
        total = total + F.interpolate(
            coarse, size=like.shape[2:], mode=LINEAR[like.ndim], align_corners=False
        )
    return total / math.sqrt(len(grids))


def gaussian_blur(image: Tensor, sigma: float | Tensor) -> Tensor:
    """Separable Gaussian blur of ``(B, C, H, W)``; at the borders over what lies inside.

    Rows and columns are blurred by matrix products, which on a GPU are many times faster than
    convolutions of a single channel.

    Args:
        image: what is blurred.
        sigma: the standard deviation in pixels, one for all or one per image ``(B,)``.
    """
    width = sigma
    if isinstance(sigma, Tensor):
        width = sigma.clamp_min(LEAST_SIGMA).view(-1, *per_image(image)[1:])
    height, breadth = image.shape[-2:]
    rows = _blur_matrix(height, width, image)
    columns = rows if breadth == height else _blur_matrix(breadth, width, image)
    blurred = rows @ image @ columns.mT
    if image.ndim < VOLUME_NDIM:
        return blurred
    along = _blur_matrix(image.shape[2], width, image)
    return (along @ blurred.transpose(2, 3)).transpose(2, 3)


def _blur_matrix(size: int, width: float | Tensor, like: Tensor) -> Tensor:
    """Matrices ``(..., size, size)`` that blur a line of pixels."""
    place = torch.arange(size, device=like.device, dtype=like.dtype)
    weights = torch.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
    return weights / weights.sum(dim=-1, keepdim=True)


def vary_appearance(
    image: Tensor, body: Tensor, generator: Source, variation: NormalVariation
) -> Tensor:
    """Varies images in sharpness, intensity and noise.

    Sharpening as well as blurring matters: without it a detector learns that smooth is normal, and
    without strong blur that it is not.

    Args:
        image: ``(B, C, H, W)`` in [0, 1].
        body: ``(B, 1, H, W)``, 1 where there is an image; elsewhere it becomes 0.
        generator: source of all randomness, on the image's device.
        variation: how far to go.

    Returns:
        ``(B, C, H, W)`` in [0, 1].
    """
    changed = _change_sharpness(image, generator, variation)
    changed = _change_intensity(changed, generator, variation)
    level = uniform(per_image(image), 0.0, variation.noise, image, generator)
    changed = changed + level * torch.randn(
        image.shape, generator=generator, device=image.device, dtype=image.dtype
    )
    return changed.clamp(0.0, 1.0) * body


def vary(
    image: Tensor,
    body: Tensor,
    mask: Tensor,
    generator: Source,
    variation: NormalVariation,
) -> tuple[Tensor, Tensor]:
    """Moves images and varies how they look, what is marked in them moving along.

    Args:
        image: ``(B, C, H, W)`` in [0, 1].
        body: ``(B, 1, H, W)`` bool; outside it the images are 0 afterwards.
        mask: ``(B, 1, H, W)``, 0 or 1; all NaN where nothing is known of an image.
        generator: source of all randomness, on the image's device.
        variation: how far to go.

    Returns:
        The images and their masks.
    """
    whole = torch.cat([image, body.to(image.dtype), mask], dim=1)
    moved, inside, shown = move(whole, generator, variation).split([image.shape[1], 1, 1], dim=1)
    inside = (inside > 0.5).to(image.dtype)
    marked = torch.where(shown.isnan(), shown, (shown > 0.5).to(image.dtype))
    return vary_appearance(moved, inside, generator, variation), marked


def move(image: Tensor, generator: Source, variation: NormalVariation) -> Tensor:
    """Turns, zooms, shifts and flips images ``(B, C, H, W)``, all channels of one alike.

    Volumes are turned, shifted and flipped within their slices, and zoomed along all axes.
    """
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
    if image.ndim == VOLUME_NDIM:
        plane, theta = theta, theta.new_zeros(len(image), 3, 4)
        theta[:, :2, :2], theta[:, :2, 3], theta[:, 2, 2] = plane[:, :, :2], plane[:, :, 2], scale
    grid = F.affine_grid(theta.to(image.dtype), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)


def _change_sharpness(image: Tensor, generator: Source, variation: NormalVariation) -> Tensor:
    batch = per_image(image)
    fine, coarse = gaussian_blur(image, 0.8), gaussian_blur(image, 2.0)
    mix = uniform(batch, 0.0, 1.0, image, generator)
    gain = uniform(batch, *variation.sharpness, image, generator)
    used = uniform(batch, 0.0, 1.0, image, generator) < SHARPENED
    smooth = mix * fine + (1 - mix) * coarse
    changed = torch.where(used, image + gain * (image - smooth), image)
    unit = min(image.shape[-2:]) / REFERENCE_SIDE
    low, high = (max(unit * sigma, LEAST_SIGMA) for sigma in variation.blur)
    sigma = log_uniform(batch, low, high, image, generator)
    used = uniform(batch, 0.0, 1.0, image, generator) < BLURRED
    return torch.where(used, gaussian_blur(changed, sigma), changed)


def _change_intensity(image: Tensor, generator: Source, variation: NormalVariation) -> Tensor:
    batch = per_image(image)
    exponent = uniform(batch, -variation.gamma, variation.gamma, image, generator).exp()
    contrast = 1.0 + uniform(batch, -variation.contrast, variation.contrast, image, generator)
    brightness = uniform(batch, -variation.brightness, variation.brightness, image, generator)
    bent = image.clamp(0.0, 1.0) ** exponent
    mean = bent.mean(dim=tuple(range(1, image.ndim)), keepdim=True)
    return (bent - mean) * contrast + mean + brightness

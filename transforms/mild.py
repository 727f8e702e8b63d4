"""Changes of an image that no radiologist minds, to see which scores do."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.transforms import Affine, GaussianSmooth
from PIL import Image
from torch import Tensor

from transforms.augment import REFERENCE_SIDE
from transforms.signals import mild_signal_changes

Change = Callable[[Tensor], Tensor]


def mild_changes_of(images: Tensor, strength: float = 1.0) -> dict[str, Change]:
    """The changes for images ``(B, C, H, W)``, or for windows of signals ``(B, C, L)``."""
    return (mild_signal_changes if images.ndim == 3 else mild_changes)(strength)


def mild_changes(strength: float = 1.0) -> dict[str, Change]:
    """The changes by name; each takes images ``(B, C, H, W)`` in [0, 1] and gives such.

    At strength 1: a blur of 0.7 pixels and a shift by 1 pixel of an image of side 224, noise of
    0.02, gamma 0.8 and 1.25, contrast 15 % up and down, JPEG of quality 75, 5 degrees, 5 % zoom.

    Args:
        strength: how far to go; at 2 everything is twice as strong.
    """
    gamma = 1.25**strength
    return {
        "blur": lambda image: _smoothed(image, 0.7 * strength),
        "noise": lambda image: _noisy(image, 0.02 * strength),
        "darker (gamma)": lambda image: image**gamma,
        "brighter (gamma)": lambda image: image ** (1.0 / gamma),
        "more contrast": lambda image: _contrast(image, 1.0 + 0.15 * strength),
        "less contrast": lambda image: _contrast(image, 1.0 - 0.15 * strength),
        "JPEG": lambda image: _compressed(image, round(100 - 25 * strength)),
        "turned": lambda image: _moved(image, degrees=5.0 * strength),
        "zoomed": lambda image: _moved(image, zoom=1.0 + 0.05 * strength),
        "shifted": lambda image: _moved(image, shift=1.0 * strength),
    }


def _unit(image: Tensor) -> float:
    """Pixels of this image per pixel of one of side 224."""
    return min(image.shape[-2:]) / REFERENCE_SIDE


def _smoothed(image: Tensor, sigma: float) -> Tensor:
    smoothed = GaussianSmooth(sigma * _unit(image))(image.flatten(0, 1))
    return torch.as_tensor(smoothed).view_as(image)


def _noisy(image: Tensor, deviation: float) -> Tensor:
    source = torch.Generator().manual_seed(0)
    noise = torch.randn(image.shape, generator=source).to(image)
    return (image + deviation * noise * (image > 0)).clamp(0.0, 1.0)


def _contrast(image: Tensor, factor: float) -> Tensor:
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return ((image - mean) * factor + mean).clamp(0.0, 1.0) * (image > 0)


def _compressed(image: Tensor, quality: int) -> Tensor:
    levels = (image * 255).round().byte().cpu().numpy()
    decoded = [[_jpeg(channel, quality) for channel in one] for one in levels]
    return torch.from_numpy(np.array(decoded)).to(image)


def _jpeg(levels: np.ndarray[Any, Any], quality: int) -> np.ndarray[Any, Any]:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file), dtype=np.float32) / 255


def _moved(image: Tensor, degrees: float = 0.0, zoom: float = 1.0, shift: float = 0.0) -> Tensor:
    move = Affine(
        rotate_params=math.radians(degrees),
        scale_params=(1.0 / zoom, 1.0 / zoom),
        translate_params=(shift * _unit(image), shift * _unit(image)),
        padding_mode="border",
        image_only=True,
        device=image.device,
    )
    return torch.as_tensor(move(image.flatten(0, 1))).view_as(image)

"""The lungs of chest radiographs, where synthetic anomalies are to lie, as masks of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from transforms.lungs import GRID, find_lungs


class LungMasks(NamedTuple):
    """Lungs of many radiographs.

    Attributes:
        masks: (N, H, W) bool.
        own: (N,) bool, True where the mask was found in the image alone, False where the atlas of
            the others was fitted to it.
    """

    masks: Tensor
    own: Tensor


def lung_masks(
    images: Tensor,
    processes: int = 1,
    shown: Callable[[Iterable[NDArray[np.float64]]], Iterable[NDArray[np.float64]]] = iter,
) -> LungMasks:
    """Finds the lungs in all of many frontal chest radiographs, see `transforms.lungs`.

    Args:
        images: (N, 1, H, W) in [0, 1], air dark, of a kind: the atlas is made from them.
        processes: how many search at the same time; -1 takes one per processor.
        shown: goes through the images to be searched, and may show how far it is.

    Returns:
        The masks, and which were found in the image alone.

    Raises:
        InputError: if lungs are found in fewer than a quarter of the images.
    """
    masks, own = find_lungs(_to_grid(images), processes, shown)
    return LungMasks(_to_size(masks, images), torch.from_numpy(own))


def _to_grid(images: Tensor) -> NDArray[np.float64]:
    """(N, C, H, W) to (N, side, side), the mean over the channels."""
    grey = images.float().mean(dim=1, keepdim=True)
    small = F.interpolate(grey, (GRID, GRID), mode="bilinear", antialias=True)
    return small[:, 0].cpu().numpy().astype(np.float64)


def _to_size(masks: NDArray[np.bool_], image: Tensor) -> Tensor:
    """(N, side, side) to bool (N, H, W) of the image."""
    fine = torch.from_numpy(masks).float()[:, None]
    resized = F.interpolate(fine, tuple(image.shape[-2:]), mode="bilinear", antialias=True)
    return (resized[:, 0] > 0.5).to(image.device)

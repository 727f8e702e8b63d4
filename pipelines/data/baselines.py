"""Trivial scores of an image, against which every result is read.

They are computed at the native resolution, before any resizing for the network. Their direction is
fixed beforehand: higher is meant to be more anomalous, even where a data set turns it round.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from transforms.errors import InputError
from transforms.intensity import robust_z

Floats = NDArray[np.float32]

BASELINES = ("intensity", "sharpness", "mean", "spread", "area")
"""The names of the baselines."""

BLOCK = 8
"""Edge of the blocks of `intensity`, in pixels."""

BRIGHTEST_BLOCKS = 10
"""Number of block means that `intensity` averages."""

SMOOTHING = 2.0
"""Standard deviation of the intensity map's Gaussian, in voxels along every axis."""

PICTURE_BODY = 0.1
"""Share of its maximum above which a picture's pixel counts for `area`."""


def sharpness(image: ArrayLike) -> float:
    """Minus the mean absolute difference of vertical neighbours: blurred images score high.

    Args:
        image: (H, W) with at least two rows. Images that are compared must share one fixed scale
            (stored grey values, or these divided by 255): stretching each image to its own range
            changes the order.

    Returns:
        The score, at most 0, in the image's units; the key of sharpness-matched pairs.
    """
    values = np.asarray(image, dtype=np.float32)
    return -float(np.abs(np.diff(values, axis=0)).mean(dtype=np.float64))


def block_score(image: ArrayLike) -> float:
    """Mean of the ten highest means of 8 x 8 blocks.

    Args:
        image: (H, W), at least 8 x 8. Up to seven rows and columns that do not fill a block are
            left out, half on either side. With fewer than ten blocks all are taken.

    Returns:
        The score, in the image's units.

    Raises:
        InputError: if the image is smaller than a block.
    """
    values = np.asarray(image, dtype=np.float32)
    if values.ndim != 2 or min(values.shape) < BLOCK:
        raise InputError(
            f"Argument 'image' must be two-dimensional and at least {BLOCK} x {BLOCK}, got shape "
            f"{values.shape}."
        )
    rows, columns = (size // BLOCK for size in values.shape)
    top, left = ((size % BLOCK) // 2 for size in values.shape)
    whole = values[top : top + rows * BLOCK, left : left + columns * BLOCK]
    means = whole.reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3), dtype=np.float64)
    return float(np.sort(means, axis=None)[-BRIGHTEST_BLOCKS:].mean())


def intensity_map(z: ArrayLike) -> Floats:
    """Smooths standardised values, in 2-D for an image and in 3-D for a volume.

    Args:
        z: standardised image or volume, see `transforms.intensity.robust_z`.

    Returns:
        The map, of the same shape.
    """
    smooth: Floats = gaussian_filter(np.asarray(z, dtype=np.float32), SMOOTHING)
    return smooth


@dataclass(frozen=True)
class SliceBaselines:
    """Baselines of the chosen slices of a case, or windows of a signal.

    Attributes:
        scores: baseline name to ``(K,)`` scores.
        maps: of those that have one, name to ``(K, h, w)`` or ``(K, L)``; of pictures none has.
    """

    scores: dict[str, NDArray[np.float64]]
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def slice_baselines(native: Tensor, body: Tensor | None, indices: Tensor) -> SliceBaselines:
    """Computes the baselines of a case.

    Args:
        native: all slices with the file's values and resolution, ``(N, C, h, w)``.
        body: of a volume, ``(N, h, w)`` bool; None for a picture.
        indices: the slices that are wanted, ``(K,)``.
    """
    if body is None:
        scores = picture_scores(native[0].numpy())
        return SliceBaselines({name: np.array([value]) for name, value in scores.items()})
    return volume_baselines(native.transpose(0, 1).numpy(), body.numpy(), indices.numpy())


def picture_scores(image: Floats) -> dict[str, float]:
    """All baselines of one picture. A score is the mean over the channels.

    Args:
        image: (C, H, W) at native resolution, in stored units or on another scale that all images
            share; not stretched image by image.

    Returns:
        `intensity`: block score of the robust z. `sharpness`: see there. `mean` and `spread`:
        mean and standard deviation. `area`: share of the pixels above a tenth of the channel's
        maximum, in [0, 1].

    Raises:
        InputError: if the image is too small, or has a value that is not finite.
    """
    whole = np.ones(image.shape[1:], dtype=bool)
    shown = image > PICTURE_BODY * image.max(axis=(1, 2), keepdims=True)
    rows = [_slice_scores(channel, _z(channel, whole), whole) for channel in image]
    scores = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return scores | {"area": float(shown.mean())}


def volume_baselines(
    volume: Floats, body: NDArray[np.bool_], indices: NDArray[np.int64]
) -> SliceBaselines:
    """All baselines of the slices of a volume.

    The intensities of MRI have no fixed unit, so all scores are taken from the robust z, whose
    median and interquartile range are those of the whole body; `sharpness` too. Standardised
    over the volume, slices of different patients share one scale.

    Args:
        volume: (C, N, H, W), the whole volume at native resolution, cut into slices.
        body: (N, H, W) True inside the body.
        indices: (K,) the slices that are wanted, increasing.

    Returns:
        Scores, and the map of `intensity`, which is meant for the body and 0 far from it; each the
        mean over the channels. `area` is the share of body pixels. Slices without body score as
        background does, with `mean` and `spread` of the whole slice.

    Raises:
        InputError: if the body is empty.
    """
    # One channel at a time: a copy of all of them would double the memory of large volumes.
    tables: list[dict[str, NDArray[np.float64]]] = []
    shown = body[indices]
    smoothed = np.zeros(shown.shape, dtype=np.float32)
    box = _box(shown, indices)
    for channel in volume:
        z = _z(channel, body)
        around = intensity_map(z[box])[indices - box[0].start]
        smoothed[:, box[1], box[2]] += around / len(volume)
        rows = [_slice_scores(z[n], z[n], own) for n, own in zip(indices, shown, strict=True)]
        tables.append({name: np.array([row[name] for row in rows]) for name in rows[0]})
    scores = {name: np.mean([table[name] for table in tables], axis=0) for name in tables[0]}
    scores["area"] = np.array([np.count_nonzero(own) for own in shown]) / shown[0].size
    return SliceBaselines(scores, {"intensity": smoothed})


def _box(shown: NDArray[np.bool_], wanted: NDArray[np.int64]) -> tuple[slice, slice, slice]:
    """What the smoothed values of the wanted slices depend on, inside the body."""
    reach = int(4 * SMOOTHING + 0.5)
    seen = np.asarray(shown.any(axis=0))
    places = (wanted, np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0)))
    first, second, third = (
        slice(max(0, int(one.min()) - reach), int(one.max()) + 1 + reach) if one.size else slice(0)
        for one in places
    )
    return first, second, third


def _z(channel: Floats, body: NDArray[np.bool_]) -> Floats:
    z: Floats = robust_z(torch.from_numpy(channel), torch.from_numpy(body), flat=True).numpy()
    return z


def _slice_scores(image: Floats, z: Floats, body: NDArray[np.bool_]) -> dict[str, float]:
    """The scores of one channel of one slice, `area` apart."""
    tissue = image[body] if body.any() else image
    return {
        "intensity": block_score(z),
        "sharpness": sharpness(image),
        "mean": float(tissue.mean(dtype=np.float64)),
        "spread": float(tissue.std(dtype=np.float64)),
    }

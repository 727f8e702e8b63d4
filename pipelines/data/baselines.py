"""Trivial scores of an image, against which every result is read.

They are computed at the native resolution, before any resizing for the network. Their direction is
fixed beforehand: higher is meant to be more anomalous, even where a data set turns it round.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def vertical_difference(image: ArrayLike) -> float:
    """Mean absolute difference of vertical neighbours, the key of sharpness-matched pairs.

    Args:
        image: (H, W) with at least two rows. Images that are compared must share one fixed scale
            (stored grey values, or these divided by 255): stretching each image to its own range
            changes the order.

    Returns:
        The difference, at least 0, in the image's units.

    Raises:
        InputError: if the image is not two-dimensional or has a single row.
    """
    values = np.asarray(image, dtype=np.float32)
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 1:
        raise InputError(
            "Argument 'image' must be two-dimensional (H, W) with at least two rows, got shape "
            f"{values.shape}."
        )
    return float(np.abs(np.diff(values, axis=0)).mean(dtype=np.float64))


def sharpness(image: ArrayLike) -> float:
    """Minus the mean absolute vertical difference: blurred images score high.

    Args:
        image: (H, W), see `vertical_difference`.

    Returns:
        The score, at most 0.
    """
    return -vertical_difference(image)


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


def baseline_scores(image: ArrayLike, body: ArrayLike | None = None) -> dict[str, float]:
    """All baselines of one picture. A score is the mean over the channels.

    Args:
        image: (C, H, W) at native resolution, in stored units or on another scale that all images
            share; not stretched image by image.
        body: (H, W) True inside the body. None takes all pixels, which suits radiographs, whose
            background is not zero; `area` is then the share of pixels above a tenth of the
            channel's maximum.

    Returns:
        `intensity`: block score of the robust z. `sharpness`: see there. `mean` and `spread`:
        mean and standard deviation inside the body. `area`: share of body pixels, in [0, 1].

    Raises:
        InputError: if the image is not (C, H, W), too small, or the body empty.
    """
    channels = _channels(image, 3)
    if body is None:
        inside = np.ones(channels.shape[1:], dtype=bool)
        shown = channels > PICTURE_BODY * channels.max(axis=(1, 2), keepdims=True)
    else:
        inside = shown = np.asarray(body).astype(bool)
    rows = [_slice_scores(channel, _z(channel, inside), inside) for channel in channels]
    scores = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return scores | {"area": float(shown.mean())}


@dataclass(frozen=True)
class VolumeBaselines:
    """Baselines of the slices of a volume.

    Attributes:
        scores: baseline name to (N,) scores, in the order of the slices.
        intensity_map: (N, H, W) map of `intensity`, float32, mean over the channels; meant for the
            body, and 0 far from it.
        body: (N, H, W) True inside the body.
    """

    scores: dict[str, NDArray[np.float64]]
    intensity_map: Floats
    body: NDArray[np.bool_]


def volume_baselines(
    volume: ArrayLike,
    axis: int = 2,
    body: ArrayLike | None = None,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
) -> VolumeBaselines:
    """All baselines of the slices of a volume.

    The intensities of MRI have no fixed unit, so all scores are taken from the robust z, whose
    median and interquartile range are those of the whole volume; `sharpness` too. Standardised
    over the volume, slices of different patients share one scale.

    Args:
        volume: (C, X, Y, Z), the whole volume at native resolution.
        axis: spatial axis that is sliced, 0, 1 or 2.
        body: (X, Y, Z) True inside the body; None takes values above 0, channel by channel.
        indices: the slices that are wanted, increasing; None takes all.

    Returns:
        Scores and intensity map, each the mean over the channels; slices without body score as
        background does, with `mean` and `spread` of the whole slice.

    Raises:
        InputError: if the volume is not (C, X, Y, Z), the axis unknown, or a channel empty.
    """
    channels = _channels(volume, 4)
    if axis not in (0, 1, 2):
        raise InputError(f"Argument 'axis' must be 0, 1 or 2, got {axis!r}.")
    channels = np.moveaxis(channels, 1 + axis, 1)
    given = None if body is None else np.moveaxis(np.asarray(body).astype(bool), axis, 0)
    inside: NDArray[np.bool_] = np.any(channels > 0, axis=0) if given is None else given
    # One channel at a time: a copy of all of them would double the memory of large volumes.
    tables: list[dict[str, NDArray[np.float64]]] = []
    wanted = np.arange(len(inside)) if indices is None else np.asarray(indices)
    shown = inside[wanted]
    smoothed = np.zeros(shown.shape, dtype=np.float32)
    box = _box(shown, wanted)
    for channel in channels:
        z = _z(channel, channel > 0 if given is None else given)
        around = intensity_map(z[box])[wanted - box[0].start]
        smoothed[:, box[1], box[2]] += around / len(channels)
        rows = [_slice_scores(z[n], z[n], own) for n, own in zip(wanted, shown, strict=True)]
        tables.append({name: np.array([row[name] for row in rows]) for name in rows[0]})
    scores = {name: np.mean([table[name] for table in tables], axis=0) for name in tables[0]}
    scores["area"] = np.array([np.count_nonzero(own) for own in shown]) / shown[0].size
    return VolumeBaselines(scores, smoothed, shown)


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
        scores = baseline_scores(native[0].numpy())
        return SliceBaselines({name: np.array([value]) for name, value in scores.items()})
    channels = native.transpose(0, 1).numpy()
    volume = volume_baselines(channels, 0, body.numpy(), indices.numpy())
    return SliceBaselines(volume.scores, {"intensity": volume.intensity_map})


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


def _channels(image: ArrayLike, dimensions: int) -> Floats:
    """The image as float32, after a look at its shape."""
    values = np.asarray(image, dtype=np.float32)
    if values.ndim != dimensions or values.size == 0:
        expected = "(C, H, W)" if dimensions == 3 else "(C, X, Y, Z)"
        raise InputError(
            f"Expected an image of shape {expected}, got {values.shape}. Put the channels first; "
            "a single grey channel is a channel too."
        )
    return values

"""Volumes made small enough for a page: eight bits, one orientation, gzip in base64."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from pipelines.outputs import MAP_RANGE
from pipelines.report.content import ViewerVolume

MAX_VOLUMES = 4
"""Volumes that a page carries; more would make it too large to open."""

MAX_BYTES = 3_000_000
"""Size of one volume in the page, base64 included."""

MAP_LEVELS = 120
"""Steps of the shown map over `MAP_RANGE`: 0.05 standard deviations each."""

IMAGE_SIDES = (256, 192, 128, 96, 64)
"""Longest sides tried, in voxels, until the volume fits into `MAX_BYTES`."""

SAMPLE = 200_000
"""Voxels that are enough to know how common values are."""

AXES = ("sagittal", "coronal", "axial")
"""Across the axes of RAS+."""

Floats = NDArray[np.float32]


def viewer_entry(volume: ViewerVolume, threshold: float) -> dict[str, Any]:
    """Everything that the viewer needs of a volume, as plain values.

    The volume is turned to RAS+. `count`, `flipped` and the `step` of a layer tell for each of its
    three axes how a voxel of that layer is numbered in the file.

    Args:
        volume: of any orientation.
        threshold: score above which a slice is flagged.

    Returns:
        `name` and `caption`; `image`, `map` and `mask` (None without one), each with its `shape`,
        its `step` in voxels of the file and its `data`; the `values` that the bytes of the image
        stand for and the `window` of those to be told apart; `count` and `flipped` per axis and
        the voxels' `spacing` in mm; the `strip` of slices, see `slice_strip`; and the voxel
        `start` where the map is highest in the worst of them.
    """
    for side in IMAGE_SIDES:
        entry = _entry(volume, side)
        layers = (entry["image"], entry["map"], entry["mask"])
        if sum(len(layer["data"]) for layer in layers if layer) <= MAX_BYTES:
            break
    axis, scores = slice_strip(volume)
    strip = {
        "axis": axis,
        "scores": [round(float(one), 3) if np.isfinite(one) else None for one in scores],
        "threshold": threshold if volume.slice_scores and np.isfinite(threshold) else None,
        "of": "score" if volume.slice_scores else "highest value of the map",
    }
    return {**entry, "strip": strip, "start": worst(volume)}


def canonical(values: NDArray[Any], affine: NDArray[np.float64]) -> Floats:
    """Turns an array to the orientation nearest to RAS+, without resampling.

    Args:
        values: (X, Y, Z).
        affine: 4 x 4 of the array.

    Returns:
        The turned array as float32.
    """
    turned = nib.apply_orientation(np.asarray(values), nib.io_orientation(affine))
    return np.asarray(turned, dtype=np.float32)


def window(image: Floats) -> tuple[float, float]:
    """Darkest and brightest value to be told apart: the body's 0.5th and 99.5th percentile."""
    finite = image[np.isfinite(image)]
    body = finite[finite > finite.min()] if finite.size else finite
    if not body.size:
        return 0.0, 1.0
    low, high = np.percentile(body, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))


def slice_strip(volume: ViewerVolume) -> tuple[int, NDArray[np.float64]]:
    """What tells along a volume which slice to look at.

    Returns:
        The axis of RAS+, 0 sagittal, 1 coronal or 2 axial, and per slice along it, turned to RAS+,
        the score, NaN where none is known; without any score the maximum of the map.
    """
    axis = AXES.index(volume.slice_axis)
    anomaly_map = canonical(volume.anomaly_map, volume.affine)
    if not volume.slice_scores:
        others = tuple({0, 1, 2} - {axis})
        return axis, np.nan_to_num(anomaly_map).max(axis=others).astype(np.float64)
    scores = np.full(anomaly_map.shape[axis], np.nan)
    for index in range(scores.size):
        scores[index] = volume.slice_scores.get(file_slice(volume, axis, index), np.nan)
    return axis, scores


def worst(volume: ViewerVolume) -> list[int]:
    """The voxel to look at first, in RAS+.

    It lies in the slice that `slice_strip` puts highest, on the lines of it that hold most of the
    map above 2 standard deviations within the body: what exceeds the image's darkest value.
    """
    axis, scores = slice_strip(volume)
    found = [size // 2 for size in canonical(volume.anomaly_map, volume.affine).shape]
    known = np.nan_to_num(scores, nan=-np.inf)
    if known.max() > known.min():
        found[axis] = int(known.argmax())
    image, anomaly_map = (
        canonical(values, volume.affine).take(found[axis], axis)
        for values in (volume.image, volume.anomaly_map)
    )
    body = image > np.min(image, where=np.isfinite(image), initial=np.inf)
    excess = np.clip(np.nan_to_num(anomaly_map) - 2, 0, MAP_RANGE[1]) * body
    if excess.any():
        first, second = (other for other in range(3) if other != axis)
        found[first], found[second] = (int(np.argmax(excess.sum(axis=n))) for n in (1, 0))
    return found


def file_slice(volume: ViewerVolume, axis: int, index: int) -> int:
    """Number in the file of a slice of the volume turned to RAS+.

    Args:
        volume: as it is stored.
        axis: 0 sagittal, 1 coronal, 2 axial.
        index: of the turned volume.
    """
    stored = int(np.flatnonzero(nib.io_orientation(volume.affine)[:, 0] == axis)[0])
    count: int = volume.image.shape[stored]
    return count - 1 - index if _flipped(volume.affine)[axis] else index


def _flipped(affine: NDArray[np.float64]) -> list[bool]:
    """Whether the file runs against each axis of RAS+."""
    signs = {int(axis): bool(sign < 0) for axis, sign in nib.io_orientation(affine)}
    return [signs[axis] for axis in range(3)]


def spacing(affine: NDArray[np.float64]) -> list[float]:
    """Distance of voxels in mm along the axes of RAS+."""
    stored = nib.affines.voxel_sizes(affine)
    order = np.argsort(nib.io_orientation(affine)[:, 0])
    return [float(size) for size in stored[order]]


def _entry(volume: ViewerVolume, side: int) -> dict[str, Any]:
    image = canonical(volume.image, volume.affine)
    anomaly_map = canonical(np.nan_to_num(volume.anomaly_map), volume.affine)
    step = _steps(image.shape, side)
    shades = _shades(image)
    middles = (shades[1:] + shades[:-1]) / 2
    grey = _blocks(np.nan_to_num(image, nan=shades[0]), step).mean(axis=(1, 3, 5))
    # The maximum of a block, so that no finding gets lost on the way to the page.
    shown = _reduced(np.clip(anomaly_map, *MAP_RANGE), map_step := _steps(image.shape, side // 2))
    mask = None
    if volume.mask is not None:
        found = canonical(volume.mask, volume.affine) > 0
        mask = _layer(_reduced(found, step), step)
    return {
        "name": volume.name,
        "caption": volume.caption,
        "image": _layer(np.searchsorted(middles, grey), step),
        "values": [float(f"{shade:.6g}") for shade in shades],
        "window": window(image),
        "map": _layer(shown / MAP_RANGE[1] * MAP_LEVELS, map_step),
        "mask": mask,
        "count": list(image.shape),
        "flipped": _flipped(volume.affine),
        "spacing": spacing(volume.affine),
    }


def _shades(image: Floats) -> Floats:
    """At most 256 ascending values that tell the image well in any window, the extremes included.

    Half of them are evenly spaced over its usual window, half as common as the body's values.
    """
    finite = image[np.isfinite(image)]
    if not finite.size:
        return np.zeros(1, dtype=np.float32)
    body = finite[finite > finite.min()]
    sample = body[:: body.size // SAMPLE + 1] if body.size else finite[:1]
    common = np.quantile(sample, np.linspace(0, 1, 126))
    low, high = window(image)
    even = np.linspace(low, min(high, finite.max()), 128)
    return np.unique(np.r_[finite.min(), finite.max(), common, even]).astype(np.float32)


def _steps(shape: Sequence[int], side: int) -> list[int]:
    return [-(-size // side) for size in shape]


def _reduced(values: NDArray[Any], step: Sequence[int]) -> NDArray[Any]:
    highest: NDArray[Any] = _blocks(values, step).max(axis=(1, 3, 5))
    return highest


def _blocks(values: NDArray[Any], step: Sequence[int]) -> NDArray[Any]:
    """(X, Y, Z) as (x, a, y, b, z, c) for blocks of a x b x c voxels, the border repeated."""
    padding = [(0, -size % factor) for size, factor in zip(values.shape, step, strict=True)]
    padded = np.pad(values, padding, mode="edge")
    shape = [n for size, f in zip(padded.shape, step, strict=True) for n in (size // f, f)]
    return padded.reshape(shape)


def _layer(values: NDArray[Any], step: Sequence[int]) -> dict[str, Any]:
    """Values in [0, 255] as bytes, the first axis running fastest."""
    raw = np.round(values).astype(np.uint8).tobytes(order="F")
    data = base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode("ascii")
    return {"shape": list(values.shape), "step": list(step), "data": data}

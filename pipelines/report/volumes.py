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

Floats = NDArray[np.float32]


def viewer_entry(volume: ViewerVolume) -> dict[str, Any]:
    """Everything that the viewer needs of a volume, as plain values.

    The volume is turned to RAS+. `count`, `flipped` and the `step` of a layer tell for each of its
    three axes how a voxel of that layer is numbered in the file.

    Args:
        volume: of any orientation.

    Returns:
        `name` and `caption`; `image`, `map` and `mask` (None without one), each with its `shape`,
        its `step` in voxels of the file and its `data`; `count` and `flipped` per axis, the
        voxels' `spacing` in mm, and the voxel `start` of the image where the map is highest.
    """
    for side in IMAGE_SIDES:
        entry = _entry(volume, side)
        layers = (entry["image"], entry["map"], entry["mask"])
        if sum(len(layer["data"]) for layer in layers if layer) <= MAX_BYTES:
            break
    return entry


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


def busiest(image: Floats, anomaly_map: Floats) -> list[int]:
    """The voxel whose three planes hold most of the map above 2 standard deviations.

    Only the body counts: what exceeds the darkest value of the image.
    """
    body = image > np.min(image, where=np.isfinite(image), initial=np.inf)
    excess = np.clip(np.nan_to_num(anomaly_map) - 2, 0, MAP_RANGE[1]) * body
    if not excess.any():
        return [size // 2 for size in anomaly_map.shape]
    others = ((1, 2), (0, 2), (0, 1))
    return [int(np.argmax(excess.sum(axis=axes))) for axes in others]


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


def _spacing(affine: NDArray[np.float64]) -> list[float]:
    """Distance of voxels in mm along the axes of RAS+."""
    stored = nib.affines.voxel_sizes(affine)
    order = np.argsort(nib.io_orientation(affine)[:, 0])
    return [float(size) for size in stored[order]]


def _entry(volume: ViewerVolume, side: int) -> dict[str, Any]:
    image = canonical(volume.image, volume.affine)
    anomaly_map = canonical(np.nan_to_num(volume.anomaly_map), volume.affine)
    low, high = window(image)
    step = _steps(image.shape, side)
    grey = np.clip((np.nan_to_num(image) - low) / (high - low), 0, 1) * 255
    # The maximum of a block, so that no finding gets lost on the way to the page.
    shown = _reduced(np.clip(anomaly_map, *MAP_RANGE), map_step := _steps(image.shape, side // 2))
    mask = None
    if volume.mask is not None:
        found = canonical(volume.mask, volume.affine) > 0
        mask = _layer(_reduced(found, step), step)
    return {
        "name": volume.name,
        "caption": volume.caption,
        "image": _layer(_blocks(grey, step).mean(axis=(1, 3, 5)), step),
        "map": _layer(shown / MAP_RANGE[1] * MAP_LEVELS, map_step),
        "mask": mask,
        "count": list(image.shape),
        "flipped": _flipped(volume.affine),
        "spacing": _spacing(volume.affine),
        "start": [n // f for n, f in zip(busiest(image, anomaly_map), step, strict=True)],
    }


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

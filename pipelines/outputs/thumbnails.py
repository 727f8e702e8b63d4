"""A small picture of each case, for lists of many."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from pipelines.data import SignalSample
from pipelines.outputs.pictures import MAP_COLOURS, MAP_RANGE
from pipelines.outputs.signals import QUALITY, SHOWN_FROM, signal_thumbnail

if TYPE_CHECKING:
    from pipelines.scoring import ScoredCase

SIDE = 72
"""Longer side of a thumbnail, in pixels."""

OPACITY = 0.7


def thumbnail(scored: ScoredCase) -> bytes:
    """The slice with the highest score, its map laid over it.

    Returns:
        A JPEG, `SIDE` pixels high or wide: the first channel as the network sees it, without black
        borders. The map starts at `SHOWN_FROM` standard deviations and has the colours of the
        other pictures, see `MAP_RANGE`.
    """
    if isinstance(scored.sample, SignalSample):
        return signal_thumbnail(scored)
    position = int(np.argmax(scored.scores["score"]))
    image, anomaly_map = scored.sample.images[position, 0], scored.canvas_maps["anomaly_map"]
    shown = image.numpy() != 0
    seen = [np.flatnonzero(shown.any(axis=axis)).tolist() for axis in (1, 0)]
    inside = tuple(slice(where[0], where[-1] + 1) for where in seen if where)
    image, anomaly_map = image[inside], anomaly_map[position][inside]
    height, width = (max(1, round(SIDE * n / max(image.shape))) for n in image.shape)
    grey = adaptive_avg_pool2d(image[None], (height, width))[0, ..., None].numpy()
    # The maximum of a block, so that no finding gets lost on the way.
    found = adaptive_max_pool2d(anomaly_map[None], (height, width))[0].numpy()
    colours = MAP_COLOURS(found / MAP_RANGE[1])[..., :3]
    weight = OPACITY * (found >= SHOWN_FROM)[..., None]
    mixed = np.clip((1 - weight) * grey + weight * colours, 0, 1)
    stream = io.BytesIO()
    Image.fromarray(np.round(255 * mixed).astype(np.uint8)).save(
        stream, "JPEG", quality=QUALITY, optimize=True
    )
    return stream.getvalue()

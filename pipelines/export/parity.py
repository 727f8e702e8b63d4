"""Whether an exported model scores like the model that it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from networks.scorer import AnomalyScorer
from networks.spatial import resized

TOLERANCE = 1e-4
"""Largest difference of scores and maps that passes, in standard deviations; beyond 1 relative."""

BATCH_SIZES = (1, 2, 5)

Outputs = tuple[Tensor, ...]
"""Map ``(B, 1, *s)``, score, percentile and flagged ``(B,)``."""


class Parity(NamedTuple):
    """How far an export lies from its model.

    Attributes:
        score: largest absolute difference of scores, in standard deviations.
        anomaly_map: likewise of maps.
        percentile: likewise of percentiles, in percent.
        flagged: number of images that only one of the two flags.
        images: number of images compared.
        agrees: whether every difference is one of rounding.
    """

    score: float
    anomaly_map: float
    percentile: float
    flagged: int
    images: int
    agrees: bool

    def summary(self) -> str:
        """The figures in words."""
        return (
            f"largest difference over {self.images} images in batches of "
            f"{', '.join(map(str, BATCH_SIZES))}: score {self.score:.1e}, "
            f"map {self.anomaly_map:.1e}, percentile {self.percentile:.1e}, "
            f"flagged differently {self.flagged}"
        )


def probe_images(channels: int, size: Sequence[int], seed: int = 0) -> Iterator[Tensor]:
    """Random and extreme images, in batches of each of `BATCH_SIZES`.

    Args:
        channels: C.
        size: (H, W) in pixels, (L,) of signals, or (D, H, W) of patches.
        seed: of the random images.

    Yields:
        Batches ``(B, C, *size)`` in [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    for count in BATCH_SIZES:
        noise = torch.rand(count, channels, *size, generator=generator)
        coarse = torch.rand(count, channels, *[4] * len(size), generator=generator)
        smooth = resized(coarse, size)
        yield noise
        yield smooth * (smooth > 0.3)  # a background of exactly 0, as in skull-stripped scans
        yield torch.stack(_extremes(channels, size)[:count])


def _extremes(channels: int, size: Sequence[int]) -> list[Tensor]:
    black = torch.zeros(channels, *size)
    numbers = torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij")
    checkered = torch.stack(numbers).sum(dim=0) % 2
    point = black.clone()
    middle: Any = (slice(None), *(side // 2 for side in size))
    point[middle] = 1.0
    slope = torch.linspace(0.0, 1.0, size[-1]).expand(channels, *size)
    return [checkered.float().expand(channels, *size), black, black + 1.0, point, slope]


def probe_context(needs: Sequence[str], image: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """A context for images ``(B, C, *s)``: their bright half as body, at any place in it.

    Raises:
        KeyError: for a context that is not known here.
    """
    generator = torch.Generator().manual_seed(seed)
    slices = image.shape[2:-2].numel()
    place = torch.rand(len(image), slices + sum(image.shape[-2:]), generator=generator)
    known = {"body": image.mean(dim=1, keepdim=True) > 0.5, "place": place.to(image)}
    return {name: known[name] for name in needs}


@torch.no_grad()
def compare(
    scorer: AnomalyScorer,
    image: Tensor,
    found: Outputs,
    context: Mapping[str, Tensor] | None = None,
) -> Parity:
    """Compares what an export says of a batch with what the scorer says of it.

    Where the score of an image lies within `TOLERANCE` of the threshold or of a quantile, either
    decision and either percentile passes.

    Args:
        scorer: the scorer that was exported.
        image: ``(B, C, *s)`` in [0, 1].
        found: the export's outputs.
        context: what the detector needs beside the image.
    """
    device = scorer.calibration.threshold.device
    moved = {name: value.to(device) for name, value in (context or {}).items()}
    expected = scorer.score_image(image.to(device), moved)
    anomaly_map, score, percentile, flagged = (value.to(expected.score.device) for value in found)
    shapes = [(anomaly_map, expected.anomaly_map), (score, expected.score)]
    shapes += [(percentile, expected.percentile), (flagged, expected.flagged)]
    if any(one.shape != other.shape or one.dtype != other.dtype for one, other in shapes):
        return Parity(float("inf"), float("inf"), float("inf"), len(image), len(image), False)
    margin = TOLERANCE * expected.score.abs().clamp_min(1.0)
    low, high = expected.score - margin, expected.score + margin
    decided = (flagged == expected.flagged) | (
        (low <= scorer.calibration.threshold) & (scorer.calibration.threshold < high)
    )
    ranked = (percentile >= scorer.percentile(low)) & (percentile <= scorer.percentile(high))
    agrees = _close(score, expected.score) and _close(anomaly_map, expected.anomaly_map)
    return Parity(
        score=float((score - expected.score).abs().max()),
        anomaly_map=float((anomaly_map - expected.anomaly_map).abs().max()),
        percentile=float((percentile - expected.percentile).abs().max()),
        flagged=int((flagged != expected.flagged).sum()),
        images=len(image),
        agrees=agrees and bool(decided.all()) and bool(ranked.all()),
    )


def _close(found: Tensor, expected: Tensor) -> bool:
    margin = TOLERANCE * expected.abs().clamp_min(1.0)
    return bool(((found - expected).abs() <= margin).all())  # false for NaN on either side


def differing(batches: Sequence[Parity]) -> Parity:
    """Puts the comparisons of several batches together."""
    return Parity(
        score=max(one.score for one in batches),
        anomaly_map=max(one.anomaly_map for one in batches),
        percentile=max(one.percentile for one in batches),
        flagged=sum(one.flagged for one in batches),
        images=sum(one.images for one in batches),
        agrees=all(one.agrees for one in batches),
    )

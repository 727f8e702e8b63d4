"""Ranking metrics on weighted counts, many weightings at once.

The rankings take the weight of anomalous (`positive`) and normal (`negative`) items per group of
equal scores, in ascending order of score, with shape (..., G), and return one value per leading
index. They serve image scores (a group per distinct score) and pixel histograms (a group per bin)
alike, and equal scikit-learn's functions of the same items with `sample_weight`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankedScores:
    """Items sorted once by score, so that any weighting of them is only summed up.

    Attributes:
        order: (N,) the items' indices in ascending order of score.
        starts: (G,) where each group of equal scores begins in `order`.
        anomalous: (N,) 1.0 for anomalous items, in the order of `order`.
    """

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    anomalous: Floats

    @classmethod
    def of(cls, labels: NDArray[np.int64], scores: Floats) -> RankedScores:
        """Sorts items by score.

        Args:
            labels: (N,) 0 normal, 1 anomalous.
            scores: (N,) finite scores, higher is more anomalous.

        Returns:
            The sorted items.
        """
        order = np.argsort(scores, kind="stable")
        ascending = scores[order]
        starts = np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]])
        return cls(order, starts, labels[order].astype(np.float64))

    def counts(self, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Sums weights over groups of equal scores.

        Args:
            weights: (R, N) non-negative weights of the items, one row per weighting; None counts
                every item once, R = 1.

        Returns:
            Weights of the anomalous and of the normal items, each (R, G), ascending.
        """
        ordered = np.ones((1, self.order.size)) if weights is None else weights[:, self.order]
        anomalous = ordered * self.anomalous
        positive: Floats = np.add.reduceat(anomalous, self.starts, axis=1)
        negative: Floats = np.add.reduceat(ordered - anomalous, self.starts, axis=1)
        return positive, negative


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divides, with NaN where the denominator is 0."""
    empty = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), np.nan)
    divided: Floats = np.divide(numerator, denominator, out=empty, where=denominator > 0)
    return divided


def counts_above(counts: Floats) -> Floats:
    """Weight in a group or any higher one, (..., G) to (..., G)."""
    above: Floats = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    return above


def auroc(positive: Floats, negative: Floats) -> Floats:
    """Area under the ROC curve, ties counting one half; NaN where a class is missing."""
    below = np.cumsum(negative, axis=-1) - negative / 2
    won = (positive * below).sum(-1)
    return ratio(won, positive.sum(-1) * negative.sum(-1))


def average_precision(positive: Floats, negative: Floats) -> Floats:
    """Average precision; NaN where a class is missing."""
    hits = counts_above(positive)
    precision = np.nan_to_num(ratio(hits, hits + counts_above(negative)))
    area = ratio((positive * precision).sum(-1), positive.sum(-1))
    return np.where(negative.sum(-1) > 0, area, np.nan)


def best_dice(positive: Floats, negative: Floats) -> Floats:
    """Highest Dice (equal to F1) over all thresholds, an oracle; NaN where a class is missing."""
    hits = counts_above(positive)
    flagged = hits + counts_above(negative)
    lesion = positive.sum(-1)
    dice: Floats = np.nan_to_num(ratio(2 * hits, flagged + lesion[..., None])).max(-1)
    return np.where((lesion > 0) & (negative.sum(-1) > 0), dice, np.nan)


def decision_rates(
    hits: Floats, false_alarms: Floats, anomalous: Floats, normal: Floats
) -> tuple[Floats, Floats, Floats]:
    """Dice (equal to F1), sensitivity and specificity of decisions, NaN where undefined.

    Args:
        hits: (R,) weight of the anomalous items that are flagged.
        false_alarms: (R,) weight of the normal ones that are.
        anomalous: (R,) weight of all anomalous items.
        normal: (R,) weight of all normal items.
    """
    dice = np.where(anomalous > 0, ratio(2 * hits, hits + false_alarms + anomalous), np.nan)
    return dice, ratio(hits, anomalous), ratio(normal - false_alarms, normal)


def partial_overlap_area(regions: Floats, negative: Floats, limit: float) -> Floats:
    """Area under per-region overlap against false-positive rate, up to a rate, over that rate.

    Args:
        regions: (..., G) sum over regions of the fraction of the region in each group, ascending.
        negative: (..., G) weight of normal pixels in each group, ascending.
        limit: highest false-positive rate, in (0, 1].

    Returns:
        The normalised area (AUPRO) in [0, 1], by the trapezoidal rule with the curve cut exactly
        at `limit`; NaN without regions or without normal pixels.
    """
    overlap = _curve(regions)
    rate = _curve(negative)
    step = np.diff(rate, axis=-1)
    width = np.diff(np.minimum(rate, limit), axis=-1)
    rise = np.diff(overlap, axis=-1) * np.nan_to_num(ratio(width, step))
    area: Floats = (width * (overlap[..., :-1] + rise / 2)).sum(-1) / limit
    known = (regions.sum(-1) > 0) & (negative.sum(-1) > 0)
    return np.where(known, area, np.nan)


def _curve(counts: Floats) -> Floats:
    """Fraction at or above each threshold, from none flagged to all, (..., G + 1)."""
    above = np.cumsum(counts[..., ::-1], axis=-1)
    start = np.zeros((*above.shape[:-1], 1))
    curve: Floats = np.concatenate([start, ratio(above, above[..., -1:])], axis=-1)
    return np.nan_to_num(curve, copy=False)

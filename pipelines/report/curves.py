"""Curves of an evaluation with bands over patients: ROC, precision-recall and calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics import (
    RESAMPLES,
    RankedScores,
    auroc,
    average_precision,
    class_patients,
    counts_above,
    draw_patients,
    ratio,
    too_few,
)

Floats = NDArray[np.float64]

RATES = np.linspace(0, 1, 201)
"""False-positive rates and recalls at which the curves are drawn."""


@dataclass(frozen=True)
class Judged:
    """Images of known label.

    Attributes:
        labels: (N,) 0 normal, 1 anomalous.
        scores: (N,) in standard deviations.
        patients: (N,) the patient of each image, the unit of resampling.
        baselines: per trivial score its (N,) values.
    """

    labels: NDArray[np.int64]
    scores: Floats
    patients: NDArray[np.str_]
    baselines: dict[str, Floats]

    @property
    def both(self) -> bool:
        """Whether normal and anomalous images are there."""
        return bool(self.labels.any() and not self.labels.all())

    @property
    def note(self) -> str:
        """Why what compares the classes is no figure; "" if it is one."""
        return too_few(min(class_patients(self.labels, self.patients)))


@dataclass(frozen=True)
class Curve:
    """A curve over `RATES` or other positions.

    Attributes:
        x: (T,) positions in [0, 1].
        y: (T,) values in [0, 1].
        low: (T,) 2.5th percentile over patients; None where there are too few of them.
        high: (T,) likewise the 97.5th.
        area: area under the ROC curve, or average precision; None for a calibration.
    """

    x: Floats
    y: Floats
    low: Floats | None
    high: Floats | None
    area: float | None = None


def roc(judged: Judged, scores: Floats, resamples: int = RESAMPLES) -> Curve:
    """Sensitivity at each false-positive rate of `RATES`.

    Args:
        judged: images of both classes.
        scores: (N,) the scores to rank by, higher is more anomalous.
        resamples: bootstrap resamples of the band; 0 leaves it out.
    """
    return _with_band(judged, scores, _sensitivities, auroc, resamples)


def precision_recall(judged: Judged, scores: Floats, resamples: int = RESAMPLES) -> Curve:
    """Precision at each recall of `RATES`: of the highest threshold that reaches it.

    Args:
        judged: images of both classes.
        scores: (N,) the scores to rank by, higher is more anomalous.
        resamples: bootstrap resamples of the band; 0 leaves it out.
    """
    return _with_band(judged, scores, _precisions, average_precision, resamples)


def false_positives(judged: Judged, quantiles: Floats, resamples: int = RESAMPLES) -> Curve:
    """Share of test normals above the threshold that the calibration gives for each rate.

    Args:
        judged: images, some of them normal.
        quantiles: (Q,) ascending scores of held-out normal images.
        resamples: bootstrap resamples of the band.

    Returns:
        The measured rate over the nominal one, both in [0, 1].
    """
    normal = judged.labels == 0
    thresholds = np.quantile(quantiles, 1 - RATES, method="higher")
    above = (judged.scores[normal][:, None] > thresholds).astype(np.float64)
    bootstrap = draw_patients(judged.patients[normal], None, resamples)
    draws = bootstrap.distribute(lambda weights: _mean(weights, above))
    few = too_few(class_patients(judged.labels, judged.patients)[0])
    return Curve(RATES, above.mean(axis=0), *((None, None) if few else _band(draws)))


def _mean(weights: Floats, values: Floats) -> Floats:
    return ratio(weights @ values, weights.sum(axis=1, keepdims=True))


def _with_band(
    judged: Judged,
    scores: Floats,
    read: Callable[[Floats, Floats], Floats],
    measure: Callable[[Floats, Floats], Floats],
    resamples: int,
) -> Curve:
    ranked = RankedScores.of(judged.labels, scores)
    counts = ranked.counts()
    value, area = read(*counts)[0], measure(*counts).item()
    if not resamples or judged.note:
        return Curve(RATES, value, None, None, area)
    bootstrap = draw_patients(judged.patients, judged.labels, resamples)
    draws = bootstrap.distribute(lambda weights: read(*ranked.counts(weights)))
    return Curve(RATES, value, *_band(draws), area)


def _band(draws: Floats) -> tuple[Floats | None, Floats | None]:
    usable = draws[np.isfinite(draws).all(axis=1)]
    if not len(usable):
        return None, None
    low, high = np.percentile(usable, [2.5, 97.5], axis=0)
    return low, high


def _sensitivities(positive: Floats, negative: Floats) -> Floats:
    """(R, G) counts to (R, T) sensitivities at `RATES`, between thresholds by straight lines."""
    found = _from_strictest(positive)
    wrong = _from_strictest(negative)
    # The highest sensitivity of each rate: a curve may rise without a false positive.
    return np.stack([_highest_at(x, y) for x, y in zip(wrong, found, strict=True)])


def _highest_at(rates: Floats, values: Floats) -> Floats:
    if not np.isfinite(rates).all() or not np.isfinite(values).all():
        return np.full(RATES.shape, np.nan)
    last = np.flatnonzero(np.r_[rates[1:] != rates[:-1], True])
    return np.interp(RATES, rates[last], values[last])


def _precisions(positive: Floats, negative: Floats) -> Floats:
    """(R, G) counts to (R, T) precisions at `RATES`."""
    hits = counts_above(positive)[:, ::-1]
    precision = np.nan_to_num(ratio(hits, hits + counts_above(negative)[:, ::-1]), nan=1.0)
    recall = ratio(hits, hits[:, -1:])
    rows = []
    for one, own in zip(recall, precision, strict=True):
        first = np.minimum(np.searchsorted(one, RATES - 1e-12), own.size - 1)
        rows.append(own[np.maximum(first, np.searchsorted(one, 1e-12))])
    return np.stack(rows)


def _from_strictest(counts: Floats) -> Floats:
    """Share at or above each threshold, from none to all, (R, G) to (R, G + 1)."""
    above = np.cumsum(counts[:, ::-1], axis=1)
    return ratio(np.c_[np.zeros(len(above)), above], above[:, -1:])

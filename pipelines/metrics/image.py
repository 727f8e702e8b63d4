"""Image-level metrics with intervals over patients.

The values are scikit-learn's; the resamples are computed by `pipelines.metrics.ranking`, which
equals scikit-learn on weighted items and handles a thousand weightings at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_curve,
    recall_score,
    roc_auc_score,
)

from pipelines.metrics.bootstrap import RESAMPLES, Figure, draw_patients
from pipelines.metrics.ranking import RankedScores, auroc, average_precision, best_dice, ratio
from transforms.errors import InputError

__all__ = ["Figure", "check_scores", "image_metrics", "paired_difference"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

_RANKING: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "image_auroc": auroc,
    "image_ap": average_precision,
    "f1_oracle": best_dice,
}
_AT_FLAGS = ("f1", "accuracy", "sensitivity", "specificity")


def image_metrics(
    labels: ArrayLike,
    scores: ArrayLike,
    flagged: ArrayLike,
    patients: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Figure]:
    """Metrics of image scores and of the decisions at a threshold fixed beforehand.

    The names are those of AE-FLOW's tables (AUC, F1, ACC, SEN, SPE; Zhao et al., ICLR 2023), but
    F1 and its companions use the given flags. `f1_oracle` is the best F1 over all thresholds,
    known only to someone who has seen the test labels.

    Args:
        labels: (N,) 0 normal, 1 anomalous.
        scores: (N,) finite scores, higher is more anomalous.
        flagged: (N,) True where the image was called anomalous.
        patients: (N,) the patient of each image, the unit of resampling.
        resamples: bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        `image_auroc`, `image_ap`, `f1_oracle`, `f1`, `accuracy`, `sensitivity` and `specificity`,
        all in [0, 1]; the value is None where the images do not define it.

    Raises:
        InputError: if arrays differ in length, labels are not 0 and 1, or a score is not finite.
    """
    truth, values, names = check_scores(labels, scores, patients)
    flags = np.asarray(flagged).astype(bool)
    if flags.shape != truth.shape:
        raise InputError(
            f"Argument 'flagged' must have one entry per image: expected shape {truth.shape}, "
            f"got {flags.shape}."
        )
    ranked = RankedScores.of(truth, values)

    def statistics(weights: Floats) -> Floats:
        positive, negative = ranked.counts(weights)
        ranking = [metric(positive, negative) for metric in _RANKING.values()]
        return np.stack([*ranking, *_flag_statistics(weights, truth, flags)], axis=1)

    bootstrap = draw_patients(names, truth, resamples, seed)
    draws = bootstrap.distribute(statistics)
    points = {name: _ranking_value(name, truth, values) for name in _RANKING}
    points |= _flag_values(truth, flags)
    return {
        name: bootstrap.figure(value, draws[:, column])
        for column, (name, value) in enumerate(points.items())
    }


def paired_difference(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    patients: ArrayLike,
    metric: str = "image_auroc",
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Figure:
    """Difference between two scores of the same images, a minus b.

    Args:
        labels: (N,) 0 normal, 1 anomalous.
        scores_a: (N,) finite scores of the first method.
        scores_b: (N,) finite scores of the second method.
        patients: (N,) the patient of each image.
        metric: `image_auroc`, `image_ap` or `f1_oracle`.
        resamples: bootstrap resamples; both scores see the same patients in each.
        seed: seed of the bootstrap.

    Returns:
        The difference with its interval, in [-1, 1]; positive where a is better.

    Raises:
        InputError: if the metric is unknown or the arrays do not fit, see `image_metrics`.
    """
    if metric not in _RANKING:
        known = ", ".join(_RANKING)
        raise InputError(f"Argument 'metric' must be one of {known}, got {metric!r}.")
    truth, first, names = check_scores(labels, scores_a, patients)
    _, second, _ = check_scores(labels, scores_b, patients)
    ranked = (RankedScores.of(truth, first), RankedScores.of(truth, second))

    def statistic(weights: Floats) -> Floats:
        a, b = (_RANKING[metric](*side.counts(weights)) for side in ranked)
        return a - b

    bootstrap = draw_patients(names, truth, resamples, seed)
    value_a, value_b = (_ranking_value(metric, truth, side) for side in (first, second))
    difference = None if value_a is None or value_b is None else value_a - value_b
    return bootstrap.figure(difference, bootstrap.distribute(statistic))


def check_scores(
    labels: ArrayLike, scores: ArrayLike, patients: ArrayLike
) -> tuple[Labels, Floats, NDArray[Any]]:
    """Turns labels, scores and patients into arrays that fit each other.

    Args:
        labels: (N,) 0 normal, 1 anomalous.
        scores: (N,) scores.
        patients: (N,) patients.

    Returns:
        The three as arrays: int64, float64 and as given.

    Raises:
        InputError: if they differ in length, labels are not 0 and 1, or a score is not finite.
    """
    truth, values, names = np.asarray(labels), np.asarray(scores, float), np.asarray(patients)
    if truth.ndim != 1 or truth.size == 0 or not truth.shape == values.shape == names.shape:
        raise InputError(
            "Arguments 'labels', 'scores' and 'patients' must be lists of equal length with at "
            f"least one image, got shapes {truth.shape}, {values.shape} and {names.shape}."
        )
    if not np.isin(truth, (0, 1)).all():
        found = sorted({str(label) for label in truth.tolist()})[:5]
        raise InputError(
            "Argument 'labels' must hold 0 (normal) and 1 (anomalous) only, got "
            f"{', '.join(found)}. Leave images of unknown label out."
        )
    if not np.isfinite(values).all():
        raise InputError(
            f"Argument 'scores' must be finite, got {int((~np.isfinite(values)).sum())} values "
            "that are NaN or infinite. Look at the images with these scores first."
        )
    return truth.astype(np.int64), values, names


def _ranking_value(metric: str, truth: Labels, scores: Floats) -> float | None:
    """The metric of scikit-learn, or None where the labels do not define it."""
    if not truth.any() or (metric == "image_auroc" and truth.all()):
        return None
    if metric == "image_auroc":
        return float(roc_auc_score(truth, scores))
    if metric == "image_ap":
        return float(average_precision_score(truth, scores))
    precision, recall, _ = precision_recall_curve(truth, scores)
    return float(np.nanmax(ratio(2 * precision * recall, precision + recall)))


def _flag_values(truth: Labels, flags: NDArray[np.bool_]) -> dict[str, float | None]:
    """Metrics of the decisions, by scikit-learn, in the order of `_AT_FLAGS`."""
    diseased, healthy = bool(truth.any()), not truth.all()
    values = (
        f1_score(truth, flags, zero_division=0.0) if diseased else None,
        accuracy_score(truth, flags),
        recall_score(truth, flags) if diseased else None,
        recall_score(truth, flags, pos_label=0) if healthy else None,
    )
    return dict(zip(_AT_FLAGS, values, strict=True))


def _flag_statistics(weights: Floats, truth: Labels, flags: NDArray[np.bool_]) -> list[Floats]:
    """Metrics of the decisions for each row of weights, in the order of `_AT_FLAGS`."""
    diseased, healthy = weights @ truth, weights @ (1 - truth)
    hits, passed = weights @ (truth * flags), weights @ ((1 - truth) * ~flags)
    flagged = weights @ flags
    f1 = np.where(diseased > 0, ratio(2 * hits, flagged + diseased), np.nan)
    accuracy = ratio(hits + passed, diseased + healthy)
    return [f1, accuracy, ratio(hits, diseased), ratio(passed, healthy)]

"""Image-level metrics with intervals over patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.metrics.bootstrap import RESAMPLES, draw_patients
from pipelines.metrics.figure import Figure, class_patients
from pipelines.metrics.ranking import (
    RankedScores,
    auroc,
    average_precision,
    best_dice,
    decision_rates,
    ratio,
)
from transforms.errors import InputError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

_RANKING: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "image_auroc": auroc,
    "image_ap": average_precision,
    "f1_oracle": best_dice,
}
_AT_FLAGS = ("f1", "accuracy", "sensitivity", "specificity", "realised_fpr")


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
        `image_auroc`, `image_ap`, `f1_oracle`, `f1`, `accuracy`, `sensitivity`, `specificity` and
        `realised_fpr`, the share of normal images that are flagged, each patient counting once;
        all in [0, 1]; the value is None where the images do not define it: the first five compare
        the classes and need both.

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
    _, patient = np.unique(names, return_inverse=True)
    normal = truth == 0
    once = normal / np.bincount(patient[normal], minlength=patient.max() + 1).clip(1)[patient]

    def statistics(weights: Floats) -> Floats:
        positive, negative = ranked.counts(weights)
        ranking = [metric(positive, negative) for metric in _RANKING.values()]
        decided = _flag_statistics(weights, truth, flags)
        realised = ratio(weights @ (once * flags), weights @ once)
        return np.stack([*ranking, *decided, realised], axis=1)

    of_normal, of_anomalous = class_patients(truth, names)
    both = min(of_normal, of_anomalous)
    over = [both] * (len(_RANKING) + 2) + [of_anomalous, of_normal, of_normal]
    bootstrap = draw_patients(names, truth, resamples, seed)
    return bootstrap.figures([*_RANKING, *_AT_FLAGS], statistics, over)


def mean_figure(
    labels: ArrayLike,
    trainings: Sequence[ArrayLike],
    patients: ArrayLike,
    metric: str = "image_auroc",
    *,
    minus: Sequence[ArrayLike] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Figure:
    """Mean of a metric over several trainings of a method, less that of another one.

    Args:
        labels: (N,) 0 normal, 1 anomalous.
        trainings: finite scores (N,) of each training.
        patients: (N,) the patient of each image.
        metric: `image_auroc`, `image_ap` or `f1_oracle`.
        minus: likewise of the other method, on the same images; none for the mean itself.
        resamples: bootstrap resamples; all trainings see the same patients in each.
        seed: seed of the bootstrap.

    Returns:
        The mean in [0, 1], or the difference of the means in [-1, 1], with its interval over
        patients.

    Raises:
        InputError: if the metric is unknown or the arrays do not fit, see `image_metrics`.
    """
    if metric not in _RANKING:
        known = ", ".join(_RANKING)
        raise InputError(f"Argument 'metric' must be one of {known}, got {metric!r}.")
    truth, _, names = check_scores(labels, trainings[0], patients)

    def mean(side: Sequence[RankedScores], weights: Floats) -> Floats:
        values: Floats = np.mean([_RANKING[metric](*s.counts(weights)) for s in side], axis=0)
        return values

    first, second = (
        [RankedScores.of(truth, check_scores(labels, one, patients)[1]) for one in side]
        for side in (trainings, minus)
    )

    def statistic(weights: Floats) -> Floats:
        value = mean(first, weights)
        return (value - mean(second, weights) if second else value)[:, None]

    over = [min(class_patients(truth, names))]
    return draw_patients(names, truth, resamples, seed).figures([metric], statistic, over)[metric]


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


def _flag_statistics(weights: Floats, truth: Labels, flags: NDArray[np.bool_]) -> list[Floats]:
    """Metrics of the decisions for each row of weights, F1 to specificity."""
    anomalous, normal = weights @ truth, weights @ (1 - truth)
    hits, false_alarms = weights @ (truth * flags), weights @ ((1 - truth) * flags)
    f1, sensitivity, specificity = decision_rates(hits, false_alarms, anomalous, normal)
    accuracy = ratio(hits + normal - false_alarms, anomalous + normal)
    both = (anomalous > 0) & (normal > 0)
    f1, accuracy = (np.where(both, one, np.nan) for one in (f1, accuracy))
    return [f1, accuracy, sensitivity, specificity]

"""AUROC over pairs of images that agree in something trivial, such as sharpness or slice level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from pipelines.metrics.bootstrap import RESAMPLES, PatientBootstrap, draw_patients
from pipelines.metrics.figure import Figure
from pipelines.metrics.image import check_scores
from pipelines.metrics.ranking import ratio
from transforms.errors import InputError

Floats = NDArray[np.float64]
Relation = Literal["abs", "log_ratio"]

SHARPNESS_TOLERANCE = 0.05
"""Largest |log ratio| of the mean absolute vertical differences of a sharpness-matched pair."""

LEVEL_TOLERANCE = 2.0
"""Largest difference of slice indices of a level-matched pair, in slices."""

BLOCK_PAIRS = 4_000_000
"""Pairs compared at once; bounds memory."""


@dataclass(frozen=True)
class MatchedFigure:
    """A figure over matched pairs.

    Attributes:
        figure: the value with its interval.
        pairs: number of (normal, anomalous) pairs that match.
    """

    figure: Figure
    pairs: int

    def as_dict(self) -> dict[str, Any]:
        """The figure for JSON: ``{"value": ..., "ci95": ..., "pairs": ...}``."""
        return {**self.figure.as_dict(), "pairs": self.pairs}


def matched_auroc(
    labels: ArrayLike,
    scores: ArrayLike,
    minus: ArrayLike | None = None,
    *,
    key: ArrayLike,
    tolerance: float,
    relation: Relation = "abs",
    patients: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> MatchedFigure:
    """Share of matched (normal, anomalous) pairs in which the anomalous image scores higher.

    Args:
        labels: (N,) 0 normal, 1 anomalous.
        scores: (N,) finite scores, higher is more anomalous; ties count one half.
        minus: (N,) scores of a second method, whose share over the same pairs and resamples is
            taken off: the figure is then a difference, positive where the first is better.
        key: (N,) what the images of a pair must agree in.
        tolerance: largest difference of the keys of a pair, itself included.
        relation: `abs` compares the keys' difference, `log_ratio` that of their logarithms.
        patients: (N,) the patient of each image; a pair weighs the product of how often its two
            patients were drawn.
        resamples: bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        The AUROC in [0, 1], or the difference in [-1, 1], and the number of pairs; the value is
        None without any pair.

    Raises:
        InputError: if the arrays do not fit, or a key has no logarithm where one is needed.
    """
    given = [scores] if minus is None else [scores, minus]
    columns = [check_scores(labels, column, patients)[1] for column in given]
    truth, _, names = check_scores(labels, scores, patients)
    keys = _comparable(key, relation, truth.size)
    bootstrap = draw_patients(names, truth, resamples, seed)
    tables = _pair_tables(truth, columns, keys, tolerance, bootstrap)
    everyone = np.ones((1, bootstrap.multiplicities.shape[1]))
    value = float(_auroc_difference(tables, everyone)[0])
    draws = _auroc_difference(tables, bootstrap.multiplicities)
    over = min(int(tables[0].any(axis=axis).sum()) for axis in (0, 1))
    return MatchedFigure(bootstrap.figure(value, draws, over), int(round(tables[0].sum())))


def _comparable(key: ArrayLike, relation: Relation, count: int) -> Floats:
    """Keys such that the plain difference of two is what the tolerance bounds."""
    keys = np.asarray(key, float)
    if keys.shape != (count,) or not np.isfinite(keys).all():
        raise InputError(
            f"Argument 'key' must hold one finite number per image: expected shape ({count},), "
            f"got {keys.shape} with {int((~np.isfinite(keys)).sum())} non-finite."
        )
    if relation == "abs":
        return keys
    if relation != "log_ratio":
        raise InputError(f"Argument 'relation' must be 'abs' or 'log_ratio', got {relation!r}.")
    if (keys <= 0).any():
        raise InputError(
            f"Argument 'key' must be positive for relation 'log_ratio', got {keys.min():g}. An "
            "image without any vertical difference is constant: leave it out."
        )
    logarithms: Floats = np.log(keys)
    return logarithms


def _pair_tables(
    truth: NDArray[np.int64],
    columns: list[Floats],
    keys: Floats,
    tolerance: float,
    bootstrap: PatientBootstrap,
) -> list[Floats]:
    """Pairs, then pairs won by each column, by (anomalous patient, normal patient), each (P, P).

    A resample needs no more than these sums, since a pair's weight depends on its patients alone.
    """
    anomalous, normal = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
    count = bootstrap.multiplicities.shape[1]
    to_normal = _membership(bootstrap.patient_index[normal], count)
    tables = [np.zeros((count, count)) for _ in range(1 + len(columns))]
    rows = max(1, BLOCK_PAIRS // max(1, normal.size))
    for start in range(0, anomalous.size, rows):
        part = anomalous[start : start + rows]
        to_anomalous = _membership(bootstrap.patient_index[part], count).T
        pairs = (np.abs(keys[part, None] - keys[normal]) <= tolerance).astype(np.float64)
        tables[0] += to_anomalous @ (pairs @ to_normal)
        for table, scores in zip(tables[1:], columns, strict=True):
            won = np.heaviside(scores[part, None] - scores[normal], 0.5) * pairs
            table += to_anomalous @ (won @ to_normal)
    return tables


def _membership(patient_index: NDArray[np.intp], count: int) -> csr_matrix:
    """(N, P) with a 1 at each item's patient."""
    items = np.arange(patient_index.size)
    return csr_matrix((np.ones(items.size), (items, patient_index)), shape=(items.size, count))


def _auroc_difference(tables: list[Floats], multiplicities: Floats) -> Floats:
    """AUROC of the first column less that of the second, if any, per row of multiplicities."""
    pairs, *won = (((multiplicities @ table) * multiplicities).sum(1) for table in tables)
    first = ratio(won[0], pairs)
    return first if len(won) == 1 else np.subtract(first, ratio(won[1], pairs))

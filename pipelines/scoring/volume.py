"""One score per case: a picture's own, a volume's from its most anomalous slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from networks import part_column
from pipelines.scoring.calibration import conformal_rank

TOP_SHARE = 0.1
"""Share of a volume's slices, those with the highest scores, whose mean is its score."""


@dataclass(frozen=True)
class CaseScore:
    """The score of a whole case, with its parts; all in standard deviations.

    Attributes:
        score: of the case.
        parts: per part of the detector, its mean over the same slices.
        percentile: rank of the score among held-out normal cases, in [0, 100]; None without any.
        flagged: whether the score exceeds the threshold; None without one.
        threshold: the score above which a case is flagged.
        target_fpr: the false-positive rate that the threshold stands for; above what was asked
            for when there are too few held-out cases for it.
        n_normal: number of held-out normal images (of a picture) or cases (of a volume).
    """

    score: float
    parts: Mapping[str, float]
    percentile: float | None
    flagged: bool | None
    threshold: float | None
    target_fpr: float | None
    n_normal: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON and CSV, the parts under `part_column`."""
        values = dict(vars(self))
        parts = {part_column(name): value for name, value in values.pop("parts").items()}
        return {"score": values.pop("score"), **parts, **values}


@dataclass(frozen=True)
class CaseReference:
    """Scores of held-out normal volumes, by which new volumes are judged.

    Attributes:
        scores: one per held-out case, in standard deviations, increasing.
        target_fpr: the false-positive rate that was asked for.
    """

    scores: tuple[float, ...]
    target_fpr: float

    @classmethod
    def of_slices(
        cls, scores: NDArray[np.float64], cases: NDArray[np.int64], target_fpr: float
    ) -> CaseReference:
        """Gathers slices ``(N,)`` of the cases ``(N,)`` that they come from."""
        found = [case_score(scores[cases == case]) for case in np.unique(cases)]
        return cls(tuple(sorted(found)), float(target_fpr))

    @property
    def fpr(self) -> float | None:
        """The rate that can be held: n cases cannot tell less than 1 in n + 1; None without any."""
        return max(self.target_fpr, 1.0 / (len(self.scores) + 1)) if self.scores else None

    @property
    def threshold(self) -> float | None:
        """The score above which a volume is flagged at `fpr`; None without any case."""
        if self.fpr is None:
            return None
        return self.scores[conformal_rank(len(self.scores), self.fpr) - 1]

    def percentile(self, score: float) -> float | None:
        """Share of the held-out cases at or below a score, in [0, 100]; None without any."""
        if not self.scores:
            return None
        return 100.0 * sum(one <= score for one in self.scores) / len(self.scores)


def top_slices(scores: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """The slices that make a volume's score, highest first: indices ``(T,)`` into the scores."""
    count = math.ceil(TOP_SHARE * len(scores))
    return np.argsort(-np.asarray(scores), kind="stable")[:count]


def case_score(scores: NDArray[np.float64]) -> float:
    """Score of a volume: the mean over its most anomalous tenth of slices.

    Example:
        >>> case_score(np.arange(20.0))
        18.5
    """
    return float(np.mean(np.asarray(scores)[top_slices(scores)]))


def score_volume(
    score: NDArray[np.float64],
    parts: Mapping[str, NDArray[np.float64]],
    reference: CaseReference,
) -> CaseScore:
    """Scores a volume by its slices.

    Args:
        score: of the slices, ``(K,)`` with K at least 1.
        parts: per part of the detector, ``(K,)``.
        reference: held-out normal volumes.
    """
    top = top_slices(score)
    whole, threshold = float(score[top].mean()), reference.threshold
    return CaseScore(
        score=whole,
        parts={name: float(values[top].mean()) for name, values in parts.items()},
        percentile=reference.percentile(whole),
        flagged=None if threshold is None else whole > threshold,
        threshold=threshold,
        target_fpr=reference.fpr,
        n_normal=len(reference.scores),
    )

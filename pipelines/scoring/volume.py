"""One score per case: a picture's own, a volume's from its most anomalous slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.scoring.calibration import conformal_rank

TOP_SHARE = 0.1
"""Share of a volume's slices, those with the highest scores, whose mean is its score."""


@dataclass(frozen=True)
class CaseScore:
    """The score of a whole case, with its parts; all in standard deviations.

    Attributes:
        score: of the case.
        flow_score: mean of the likelihood part over the same slices.
        recon_score: likewise of the reconstruction part.
        head_score: likewise of the head; None without a head.
        percentile: rank of the score among held-out normal cases, in [0, 100]; None without any.
        flagged: whether the score exceeds the threshold; None without one.
        threshold: the score above which a case is flagged.
        target_fpr: the false-positive rate that the threshold stands for; above what was asked
            for when there are too few held-out cases for it.
        n_normal: number of held-out normal images (of a picture) or cases (of a volume).
    """

    score: float
    flow_score: float
    recon_score: float
    head_score: float | None
    percentile: float | None
    flagged: bool | None
    threshold: float | None
    target_fpr: float | None
    n_normal: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON and CSV; a head that is absent is left out."""
        values = dict(vars(self))
        if self.head_score is None:
            del values["head_score"]
        return values


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


def score_volume(columns: dict[str, NDArray[np.float64]], reference: CaseReference) -> CaseScore:
    """Scores a volume by its slices.

    Args:
        columns: ``score``, ``flow_score``, ``recon_score`` and maybe ``head_score``, ``(K,)``
            with K at least 1.
        reference: held-out normal volumes.
    """
    top = top_slices(columns["score"])
    score, threshold = float(columns["score"][top].mean()), reference.threshold
    head = columns.get("head_score")
    return CaseScore(
        score=score,
        flow_score=float(columns["flow_score"][top].mean()),
        recon_score=float(columns["recon_score"][top].mean()),
        head_score=None if head is None else float(head[top].mean()),
        percentile=reference.percentile(score),
        flagged=None if threshold is None else score > threshold,
        threshold=threshold,
        target_fpr=reference.fpr,
        n_normal=len(reference.scores),
    )

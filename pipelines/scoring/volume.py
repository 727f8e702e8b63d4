"""One score per case: a picture's own, a volume's from its most anomalous slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from networks import part_column
from networks.conformal import conformal_rank, p_value, patient_weights, supported_rate

TOP_SHARE = 0.1
"""Share of a volume's slices, those with the highest scores, whose mean is its score."""


@dataclass(frozen=True)
class CaseScore:
    """The score of a whole case, with its parts; all in standard deviations.

    Attributes:
        score: of the case.
        parts: per part of the detector, its mean over the same slices.
        percentile: rank of the score among held-out normal cases, in [0, 100]; None without any.
        p_value: chance that a normal case scores so high, at most; None without any.
        flagged: whether the score exceeds the threshold; None without one.
        threshold: the score above which a case is flagged.
        target_fpr: the false-positive rate that the threshold stands for; above what was asked
            for when there are too few held-out cases for it.
        n_normal: number of held-out normal images (of a picture) or cases (of a volume).
        score_std: standard deviation of the scores of an ensemble's members; None without any.
        in_scope: whether the case is of the kind that the model was made for; None if unknown.
        out_of_scope: why it is not; "" if it is.
    """

    score: float
    parts: Mapping[str, float]
    percentile: float | None
    p_value: float | None
    flagged: bool | None
    threshold: float | None
    target_fpr: float | None
    n_normal: int
    score_std: float | None = None
    in_scope: bool | None = None
    out_of_scope: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON and CSV, the parts under `part_column`."""
        values = dict(vars(self))
        parts = {part_column(name): value for name, value in values.pop("parts").items()}
        if self.score_std is None:  # which a single method never has
            del values["score_std"]
        return {"score": values.pop("score"), **parts, **values}


@dataclass(frozen=True)
class CaseReference:
    """Scores of held-out normal volumes, by which new volumes are judged.

    Attributes:
        scores: one per held-out case, in standard deviations, increasing.
        target_fpr: the false-positive rate that was asked for.
        weights: what each counts, see `networks.conformal.patient_weights`; None for 1 each.
    """

    scores: tuple[float, ...]
    target_fpr: float
    weights: tuple[float, ...] | None = None

    @classmethod
    def of_slices(
        cls,
        scores: NDArray[np.float64],
        cases: NDArray[np.int64],
        target_fpr: float,
        patients: Sequence[str],
    ) -> CaseReference:
        """Gathers slices ``(N,)`` by the cases ``(N,)``, and these by the patients ``(N,)``."""
        patient_of = dict(zip(cases.tolist(), patients, strict=True))
        found = [(case_score(scores[cases == case]), case) for case in patient_of]
        weights = patient_weights(list(patient_of.values())).tolist()
        ordered = sorted(zip(found, weights, strict=True))
        return cls(
            tuple(score for (score, _), _ in ordered),
            float(target_fpr),
            tuple(weight for _, weight in ordered),
        )

    @property
    def _weights(self) -> torch.Tensor:
        return torch.tensor(self.weights or [1.0] * len(self.scores), dtype=torch.float64)

    @property
    def n_patients(self) -> int:
        """Number of the patients whose cases these are."""
        return round(float(self._weights.sum()))

    @property
    def fpr(self) -> float | None:
        """The rate that can be held; None without any case."""
        return supported_rate(self.n_patients, self.target_fpr) if self.scores else None

    @property
    def threshold(self) -> float | None:
        """The score above which a volume is flagged at `fpr`; None without any case."""
        return None if self.fpr is None else self.scores[conformal_rank(self._weights, self.fpr)]

    def percentile(self, score: float) -> float | None:
        """Share of the held-out cases at or below a score, in [0, 100]; None without any."""
        if not self.scores:
            return None
        return 100.0 * sum(one <= score for one in self.scores) / len(self.scores)

    def p_value(self, score: float) -> float | None:
        """Chance that a normal case scores as high as one, at most; None without any."""
        if not self.scores:
            return None
        reached = self._weights[torch.tensor(self.scores) >= score].sum()
        return float(p_value(reached, self.n_patients))


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
    members: NDArray[np.float64] | None = None,
) -> CaseScore:
    """Scores a volume by its slices.

    Args:
        score: of the slices, ``(K,)`` with K at least 1.
        parts: per part of the detector, ``(K,)``.
        reference: held-out normal volumes.
        members: the scores of an ensemble's members, ``(K, M)``; None without any.
    """
    top = top_slices(score)
    whole, threshold = float(score[top].mean()), reference.threshold
    return CaseScore(
        score=whole,
        parts={name: float(values[top].mean()) for name, values in parts.items()},
        percentile=reference.percentile(whole),
        p_value=reference.p_value(whole),
        flagged=None if threshold is None else whole > threshold,
        threshold=threshold,
        target_fpr=reference.fpr,
        n_normal=len(reference.scores),
        score_std=None if members is None else float(members[top].mean(axis=0).std(ddof=1)),
    )

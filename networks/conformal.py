"""Conformal thresholds and p-values where the images of one patient are one draw.

Images of one patient resemble each other: a hundred slices of five patients tell of five patients.
Each patient counts once, shared among the own images (hierarchical conformal prediction: Dunn,
Wasserman and Ramdas 2022; Lee, Barber and Willett 2023, whose weighted quantile this is). For one
image drawn from each patient the rate then holds exactly; with one image a patient it is
split-conformal prediction (Vovk et al.).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from .errors import ArgumentError

TINY = 1e-9
"""Keeps rounding from asking for one rank more: 100 * 0.95 is 95.00000000000001."""


def patients_needed(rate: float) -> int:
    """Patients that a false-positive rate needs at least.

    Example:
        >>> patients_needed(0.05), patients_needed(0.01)
        (19, 99)
    """
    return math.ceil(1.0 / rate - TINY) - 1


def supported_rate(patients: int, rate: float) -> float:
    """The rate that can be held: n patients cannot tell less than 1 in n + 1.

    Raises:
        ArgumentError: for a rate that is none.
    """
    if not 0.0 < rate < 1.0:
        raise ArgumentError(f"target_fpr: expected a rate between 0 and 1, found {rate}.")
    return max(rate, 1.0 / (patients + 1))


def patient_weights(patients: Sequence[Hashable]) -> Tensor:
    """What each image counts, ``(N,)`` float64: 1 over the number of its patient's images."""
    count = Counter(patients)
    return torch.tensor([1.0 / count[one] for one in patients], dtype=torch.float64)


def conformal_rank(weights: Tensor, rate: float) -> int:
    """Rank, from 0, of the normal score that a new patient's exceeds at most at a rate.

    Args:
        weights: of the scores in increasing order, ``(N,)``, see `patient_weights`.
        rate: one that `supported_rate` gives.

    Example:
        >>> conformal_rank(patient_weights(range(99)), 0.05)
        94
    """
    below = weights.cumsum(0)
    wanted = (1.0 - rate) * (round(float(below[-1])) + 1)
    return min(int((below < wanted - TINY).sum()), len(weights) - 1)


def p_value(reached: Tensor, patients: int) -> Tensor:
    """The chance that a normal image scores so high, at most.

    Args:
        reached: weight of the normal scores at or above, of any shape.
        patients: their number.
    """
    return (1.0 + reached) / (patients + 1.0)


def flagged_by_others(scores: Tensor, patients: Sequence[Hashable], rate: float) -> Tensor:
    """Whether each normal score exceeds the threshold that all other patients set.

    What a threshold does to new patients, told by those who set it.

    Args:
        scores: ``(N,)``.
        patients: whose they are, two at least.
        rate: the one asked for.

    Returns:
        ``(N,)`` bool.
    """
    index = {one: place for place, one in enumerate(dict.fromkeys(patients))}
    number = torch.tensor([index[one] for one in patients])
    weights = patient_weights(patients)
    ordered, order = scores.sort()
    flagged = torch.zeros(len(scores), dtype=torch.bool)
    supported = supported_rate(len(index) - 1, rate)
    for one in range(len(index)):
        others = number[order] != one
        threshold = ordered[others][conformal_rank(weights[order][others], supported)]
        flagged[number == one] = scores[number == one] > threshold
    return flagged

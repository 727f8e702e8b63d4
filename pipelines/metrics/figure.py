"""A figure with its interval, and the one rule of when a number is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.common import counted

LEAST_PATIENTS = 5
"""Patients of each class that a figure needs; over fewer it is told, but has no interval, and
nothing is judged by it."""


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval.

    Attributes:
        value: the number, None where the data do not define it.
        ci95: lower and upper end of the percentile interval over patients, None where there are
            too few patients for one.
        note: why it is no figure; "" for one that is.
    """

    value: float | None
    ci95: tuple[float, float] | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The figure for JSON.

        Returns:
            ``{"value": ..., "ci95": [lower, upper]}``, with None in place of what is not known, and
            a ``note`` where it is no figure.
        """
        told = {"value": self.value, "ci95": None if self.ci95 is None else list(self.ci95)}
        return told | ({"note": self.note} if self.note else {})


def too_few(patients: int) -> str:
    """What is to be noted of a number over so few patients; "" where they are enough."""
    return "" if patients >= LEAST_PATIENTS else f"{counted(patients, 'patient')}: no figure"


def told_figure(figure: Mapping[str, Any]) -> str:
    """A number for people: what `Figure.as_dict` gives of a known one, with interval or note."""
    told, interval = f"{figure['value']:.3f}", figure.get("ci95")
    if figure.get("note"):
        return f"{told} ({figure['note']})"
    return told if interval is None else f"{told} [{interval[0]:.3f}, {interval[1]:.3f}]"


def class_patients(labels: ArrayLike, patients: ArrayLike) -> tuple[int, int]:
    """Number of patients with normal and with anomalous images.

    Args:
        labels: (N,) 0 normal, 1 anomalous.
        patients: (N,) the patient of each image.
    """
    marked: NDArray[np.bool_] = np.asarray(labels) > 0
    names = np.asarray(patients)
    return len(np.unique(names[~marked])), len(np.unique(names[marked]))

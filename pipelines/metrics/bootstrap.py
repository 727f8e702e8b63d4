"""Intervals of figures by resampling patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transforms.errors import InputError

Floats = NDArray[np.float64]

RESAMPLES = 1000
"""Bootstrap resamples unless the caller asks for another number."""

MINIMUM_USABLE = 0.9
"""Share of resamples in which a figure must be computable for its interval to be given."""

BLOCK_ELEMENTS = 4_000_000
"""Weights held at once while drawing; bounds memory to some ten times 32 MB."""

BLOCK_RESAMPLES = 100
"""Resamples computed at once at the most; bounds memory where few rows have many bins."""


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval.

    Attributes:
        value: the number, None where the data do not define it.
        ci95: lower and upper end of the percentile interval over patients, None where there are
            too few patients for one.
    """

    value: float | None
    ci95: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, float | list[float] | None]:
        """The figure for JSON.

        Returns:
            ``{"value": ..., "ci95": [lower, upper]}``, with None in place of what is not known.
        """
        return {"value": self.value, "ci95": None if self.ci95 is None else list(self.ci95)}


def told_figure(figure: Mapping[str, Any]) -> str:
    """A figure for people: what `Figure.as_dict` gives of a known one, with its interval."""
    told, interval = f"{figure['value']:.3f}", figure.get("ci95")
    return told if interval is None else f"{told} [{interval[0]:.3f}, {interval[1]:.3f}]"


@dataclass(frozen=True)
class PatientBootstrap:
    """How often each patient was drawn, in each resample.

    Attributes:
        patient_index: (N,) the row's patient, an index into the columns of `draws`.
        multiplicities: (R, P) how often each patient was drawn.
        enough: whether every stratum has at least two patients; without that the interval of a
            figure is None, since it would look narrower than anyone knows.
    """

    patient_index: NDArray[np.intp]
    multiplicities: Floats
    enough: bool

    def distribute(self, statistic: Callable[[Floats], Floats]) -> Floats:
        """Computes a statistic on each resample.

        Args:
            statistic: maps weights of the rows (r, N) to r values, or to (r, K) values.

        Returns:
            The statistic of all resamples, (R,) or (R, K).
        """
        rows = max(1, min(BLOCK_RESAMPLES, BLOCK_ELEMENTS // self.patient_index.size))
        blocks = [
            statistic(self.multiplicities[start : start + rows][:, self.patient_index])
            for start in range(0, len(self.multiplicities), rows)
        ]
        return np.concatenate(blocks)

    def figures(
        self, names: Sequence[str], statistics: Callable[[Floats], Floats]
    ) -> dict[str, Figure]:
        """Figures of the data with their intervals.

        Args:
            names: the K figures' names.
            statistics: maps weights of the rows (r, N) to the figures (r, K).

        Returns:
            The figures by name.
        """
        values = statistics(np.ones((1, self.patient_index.size)))[0]
        draws = self.distribute(statistics)
        return {
            name: self.figure(float(values[column]), draws[:, column])
            for column, name in enumerate(names)
        }

    def figure(self, value: float, draws: Floats) -> Figure:
        """Joins a value and its distribution.

        Args:
            value: the figure on the data themselves; NaN when it is not defined.
            draws: (R,) the figure on each resample, NaN where it was not defined.

        Returns:
            The figure with the 2.5th and 97.5th percentile of the draws.
        """
        if not np.isfinite(value):
            return Figure(None)
        usable = draws[np.isfinite(draws)]
        if not self.enough or usable.size < max(1.0, MINIMUM_USABLE * draws.size):
            return Figure(float(value))
        low, high = np.percentile(usable, [2.5, 97.5])
        return Figure(float(value), (float(low), float(high)))


def draw_patients(
    patients: ArrayLike,
    labels: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PatientBootstrap:
    """Draws patients with replacement.

    Where every patient carries one class only, normal and anomalous patients are drawn apart, so
    that each resample has as many of either as the data. The draw depends on the set of patients
    (and the class of each) and the seed, not on the order of the rows.

    Args:
        patients: (N,) the patient of each row, as text or numbers.
        labels: (N,) 0 normal, 1 anomalous; None draws all patients alike.
        resamples: number of resamples R.
        seed: seed of the draw.

    Returns:
        The draw.

    Raises:
        InputError: if there are no rows, or `labels` is of another length.
    """
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    if names.size == 0:
        raise InputError("Argument 'patients' is empty: expected the patient of at least one row.")
    rng = np.random.default_rng(seed)
    multiplicities = np.zeros((resamples, names.size))
    strata = _strata(index, labels, names.size)
    for members in strata:
        even = np.full(members.size, 1 / members.size)
        multiplicities[:, members] = rng.multinomial(members.size, even, size=resamples)
    return PatientBootstrap(index, multiplicities, all(len(members) > 1 for members in strata))


def _strata(
    index: NDArray[np.intp], labels: ArrayLike | None, count: int
) -> list[NDArray[np.intp]]:
    """Groups of patients that are drawn apart."""
    everyone = np.arange(count)
    if labels is None:
        return [everyone]
    marked = np.asarray(labels) > 0
    if marked.shape != index.shape:
        raise InputError(
            f"Argument 'labels' must have one entry per row: expected shape {index.shape}, "
            f"got {marked.shape}."
        )
    anomalous = np.bincount(index[marked], minlength=count) > 0
    normal = np.bincount(index[~marked], minlength=count) > 0
    if (anomalous & normal).any() or not (anomalous.any() and normal.any()):
        return [everyone]
    return [everyone[normal], everyone[anomalous]]

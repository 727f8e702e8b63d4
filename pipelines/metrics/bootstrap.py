"""Intervals of figures by resampling patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.metrics.figure import Figure, too_few
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
class PatientBootstrap:
    """How often each patient was drawn, in each resample.

    Attributes:
        patient_index: (N,) the row's patient, an index into the columns of `draws`.
        multiplicities: (R, P) how often each patient was drawn.
    """

    patient_index: NDArray[np.intp]
    multiplicities: Floats

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
        self,
        names: Sequence[str],
        statistics: Callable[[Floats], Floats],
        patients: Sequence[int],
    ) -> dict[str, Figure]:
        """Figures of the data with their intervals.

        Args:
            names: the K figures' names.
            statistics: maps weights of the rows (r, N) to the figures (r, K).
            patients: (K,) over how many patients each figure is.

        Returns:
            The figures by name.
        """
        values = statistics(np.ones((1, self.patient_index.size)))[0]
        draws = self.distribute(statistics)
        return {
            name: self.figure(float(values[column]), draws[:, column], patients[column])
            for column, name in enumerate(names)
        }

    def figure(self, value: float, draws: Floats, patients: int) -> Figure:
        """Joins a value and its distribution.

        Args:
            value: the figure on the data themselves; NaN when it is not defined.
            draws: (R,) the figure on each resample, NaN where it was not defined.
            patients: over how many patients the figure is; of the rarer class, if it compares two.

        Returns:
            The figure with the 2.5th and 97.5th percentile of the draws.
        """
        if not np.isfinite(value):
            return Figure(None)
        if note := too_few(patients):
            return Figure(float(value), note=note)
        usable = draws[np.isfinite(draws)]
        if usable.size < max(1.0, MINIMUM_USABLE * draws.size):
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
    for members in _strata(index, labels, names.size):
        even = np.full(members.size, 1 / members.size)
        multiplicities[:, members] = rng.multinomial(members.size, even, size=resamples)
    return PatientBootstrap(index, multiplicities)


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

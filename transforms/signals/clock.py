"""A signal on a uniform clock, with its gaps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transforms.errors import InputError

Floats = NDArray[np.float64]

JITTER = 0.25
"""Share of a step by which a time stamp may miss the clock."""

STEP_JITTER = 0.4
"""Share of a step by which two time stamps may miss their distance on it."""

LONG_GAP = 10
"""Steps from which on a gap may end between the strokes of the clock, which then starts anew."""

LEAST_SHARE = 0.05
"""Share of a signal's samples that must be there; a clock with fewer is no clock."""


@dataclass(frozen=True)
class Signal:
    """Samples at equal distances in time; what is missing is known.

    Attributes:
        values: ``(C, T)`` float32 in the file's units; NaN where a sample is missing.
        channels: their names.
        time: ``(T,)`` in seconds; on the file's own scale, or since 1970 (UTC) where the file has
            dates; the samples' numbers where it has neither times nor a rate.
        rate: samples per second; None where the file does not tell.
        dates: whether the file's times are dates.
        labels: ``(T,)`` bool, True inside an anomaly; None where nothing is known.
    """

    values: NDArray[np.float32]
    channels: tuple[str, ...]
    time: Floats
    rate: float | None = None
    dates: bool = False
    labels: NDArray[np.bool_] | None = None

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Where all channels have a sample, ``(T,)``."""
        return np.asarray(np.isfinite(self.values).all(axis=0))

    @property
    def filled(self) -> NDArray[np.float32]:
        """The values with straight lines over the gaps, level at the ends, ``(C, T)``."""
        place = np.arange(self.values.shape[1])
        rows = [
            np.interp(place, place[known], row[known])
            for row, known in zip(self.values, np.isfinite(self.values), strict=True)
        ]
        return np.stack(rows).astype(np.float32)

    def part(self, first: int, end: int) -> Signal:
        """The samples from `first` to before `end`."""
        labels = None if self.labels is None else self.labels[first:end]
        return replace(
            self, values=self.values[:, first:end], time=self.time[first:end], labels=labels
        )

    def told_time(self, values: Floats) -> list[Any]:
        """Times as the file tells them: dates as ISO text, others as numbers."""
        if not self.dates:
            return [float(f"{value:.12g}") for value in values]
        moments = np.round(values * 1e3).astype("datetime64[ms]")
        return [str(moment) for moment in moments]


def on_clock(
    name: str, time: Floats, values: Floats, labels: NDArray[np.bool_] | None
) -> tuple[Floats, Floats, NDArray[np.bool_] | None, float]:
    """Puts samples with time stamps on a uniform clock; jumps become gaps.

    Args:
        name: of the file, for messages.
        time: ``(N,)``, increasing.
        values: ``(C, N)``.
        labels: ``(N,)``; None where nothing is known. Inside a gap nothing is anomalous.

    Returns:
        Time ``(T,)``, as it was where there are samples, values ``(C, T)`` with NaN in the gaps,
        labels ``(T,)``, samples per second.

    Raises:
        InputError: if the time stamps do not increase, or follow no clock.
    """
    steps = np.diff(time)
    if len(time) < 2 or not np.isfinite(time).all() or not (steps > 0).all():
        wrong = int(np.argmin(steps > 0)) + 1 if len(steps) else 0
        raise InputError(
            f"{name}: expected times that increase from row to row, found otherwise at row "
            f"{wrong + 1} of the samples. Sort the rows, and keep one of each time."
        )
    place = np.arange(len(time))
    line = np.polynomial.Polynomial.fit(place, time - time[0], 1)
    step = float(line.convert().coef[1])
    if np.abs(time - time[0] - line(place)).max() > JITTER * step:  # no clock without gaps
        usual = np.median(steps)
        step = float(steps[np.round(steps / usual) == 1].mean())
        whole = np.round(steps / step)
        missed = np.abs(steps / step - whole) * (whole <= LONG_GAP)
        if missed.max() > STEP_JITTER or whole.min() < 1:
            wrong = int(np.argmax(np.where(whole < 1, 1.0, missed))) + 1
            raise InputError(
                f"{name}: expected samples at equal distances, or gaps of whole ones; most are "
                f"{step:g} s apart, found {steps[wrong - 1]:g} s before row {wrong + 1} of the "
                "samples. Resample it to one rate."
            )
        place = np.concatenate([[0], np.cumsum(whole)]).astype(np.int64)
    count = int(place[-1]) + 1
    if len(time) < LEAST_SHARE * count:
        raise InputError(
            f"{name}: expected a signal with few gaps, found {len(time)} samples where its clock "
            f"of {step:g} s has {count}. Check the times, or cut it into several files."
        )
    spread = np.full((len(values), count), np.nan)
    spread[:, place] = values
    marked = None
    if labels is not None:
        marked = np.zeros(count, dtype=bool)
        marked[place] = labels
    return np.interp(np.arange(count), place, time), spread, marked, 1 / step

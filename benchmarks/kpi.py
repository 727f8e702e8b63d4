"""Generated KPIs, such as the requests of a service: seasons, trend, noise, gaps and events.

They are for trying the program. Figures measured on them say nothing about real signals.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.common import write_csv

Signal = npt.NDArray[np.float64]

MINUTES = 15
DAY = 24 * 60 // MINUTES
WEEK = 7 * DAY
START = np.datetime64("2026-01-05T00:00")
"""A Monday."""

COLUMNS = ("time", "value", "label")


def write_kpis(
    folder: Path, normal: int = 30, anomalous: int = 10, weeks: int = 3, seed: int = 2026
) -> Path:
    """Writes KPIs as CSV files in ``normal/`` and ``anomalous/``.

    Each ``kpi_00.csv`` has a row per 15 minutes: ``time``, ``value`` (empty in gaps) and ``label``
    (1 in events). A file is a function of seed, number and weeks.

    Args:
        folder: where to write.
        normal: signals without an event.
        anomalous: signals with two to four.
        weeks: length of each.
        seed: of everything random.

    Returns:
        The folder.
    """
    for number in range(normal + anomalous):
        rng = np.random.default_rng([seed, number])
        values, labels = draw_kpi(weeks * WEEK, number >= normal, rng)
        times = START + np.arange(values.size) * np.timedelta64(MINUTES, "m")
        rows = [
            {"time": str(time), "value": "" if np.isnan(value) else f"{value:.1f}", "label": label}
            for time, value, label in zip(times, values, labels.astype(int), strict=True)
        ]
        kind = "normal" if number < normal else "anomalous"
        write_csv(folder / kind / f"kpi_{number:02d}.csv", rows, COLUMNS)
    return folder


def draw_kpi(
    samples: int, anomalous: bool, rng: np.random.Generator
) -> tuple[Signal, npt.NDArray[np.bool_]]:
    """One KPI.

    Args:
        samples: how long it is, one every 15 minutes from a Monday on.
        anomalous: whether events happen.
        rng: source of all randomness.

    Returns:
        Values (samples,), NaN in gaps, and labels (samples,), True in events.
    """
    time = np.arange(samples)
    level, noise = rng.uniform(80, 400), rng.uniform(0.015, 0.04)
    shape = _season(time, rng)
    trend = 1 + rng.uniform(-0.1, 0.25) * time / samples
    correlated = np.convolve(rng.normal(size=samples + 8), np.full(9, 1 / 3), mode="valid")
    jitter = 1 + noise * (0.8 * rng.normal(size=samples) + 0.6 * correlated)
    labels = np.zeros(samples, bool)
    clean = shape * trend
    values = clean * jitter
    if anomalous:
        _happen(values, clean, labels, rng)
    values *= level
    _lose(values, rng)
    return values, labels


def _season(time: npt.NDArray[np.int64], rng: np.random.Generator) -> Signal:
    """Nights, two peaks a day and quieter weekends, around 1."""
    hour = 2 * np.pi * ((time - rng.integers(-2, 3)) % DAY) / DAY
    day = -rng.uniform(0.4, 0.55) * np.cos(hour - 0.6) - rng.uniform(0.1, 0.2) * np.cos(2 * hour)
    weekend = (time // DAY) % 7 >= 5
    season: Signal = 1 + day * np.where(weekend, rng.uniform(0.5, 0.7), 1) - 0.15 * weekend
    return season


def _happen(
    values: Signal, clean: Signal, labels: npt.NDArray[np.bool_], rng: np.random.Generator
) -> None:
    """Two to four events, at least half a day apart, each of another kind."""
    kinds = rng.permutation(len(EVENTS))[: rng.integers(2, 5)]
    share = labels.size // len(kinds)
    for place, kind in enumerate(kinds):
        happens, shortest, longest = EVENTS[kind]
        length = int(rng.integers(shortest, longest + 1))
        start = place * share + int(rng.integers(DAY // 2, share - longest))
        where = slice(start, start + length)
        values[where] = happens(values[where], clean[where], rng)
        labels[where] = True


def _spike(values: Signal, clean: Signal, rng: np.random.Generator) -> Signal:
    return values + rng.uniform(0.35, 0.9)


def _dip(values: Signal, clean: Signal, rng: np.random.Generator) -> Signal:
    return values * rng.uniform(0.2, 0.65)


def _shift(values: Signal, clean: Signal, rng: np.random.Generator) -> Signal:
    return values + float(rng.choice([-1, 1])) * rng.uniform(0.2, 0.35)


def _stuck(values: Signal, clean: Signal, rng: np.random.Generator) -> Signal:
    return np.full_like(values, values[0])


def _restless(values: Signal, clean: Signal, rng: np.random.Generator) -> Signal:
    return values + rng.uniform(0.12, 0.25) * rng.normal(size=values.size)


def _mirrored(values: Signal, clean: Signal, rng: np.random.Generator) -> Signal:
    """High when it should be low."""
    return values + 2 * (float(clean.mean()) - clean)


EVENTS: tuple[tuple[Callable[[Signal, Signal, np.random.Generator], Signal], int, int], ...] = (
    (_spike, 1, 4),
    (_dip, 4, 24),
    (_shift, 24, DAY),
    (_stuck, 16, 48),
    (_restless, 16, 48),
    (_mirrored, DAY // 2, DAY),
)
"""What happens, and its shortest and longest duration in samples."""


def _lose(values: Signal, rng: np.random.Generator) -> None:
    """Single samples and up to two stretches of some hours are missing."""
    values[rng.random(values.size) < rng.uniform(0, 0.01)] = np.nan
    for _ in range(rng.integers(0, 3)):
        length = int(rng.integers(4, DAY // 2))
        start = int(rng.integers(0, values.size - length))
        values[start : start + length] = np.nan

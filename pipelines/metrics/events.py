"""Metrics of events on a time axis: how many are found, by how much, and at how many false alarms.

An event is a run of anomalous samples, an alarm a run of samples whose trace exceeds a threshold
fixed beforehand. What was not seen is taken out of the axis first, so that a gap neither breaks an
event nor hides an alarm. Pointwise figures are those of `PixelHistogram`, to which a trace is an
image of one row.

There is no point adjustment, which counts a whole event as found once one of its samples is: under
it a random score does as well as published methods (Kim et al., AAAI 2022), and the longer the
events, the better. `event_recall` says openly that one sample suffices, and stands beside the false
alarms and the overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation

from pipelines.metrics.bootstrap import RESAMPLES, draw_patients
from pipelines.metrics.figure import Figure
from pipelines.metrics.ranking import ratio
from transforms.errors import InputError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

FALSE_ALARMS_PER = 1000
"""Seen samples to which the false alarms refer."""

LEVELS = tuple(np.geomspace(0.5, 100.0, 40).tolist())
"""Thresholds at which a trivial trace, which has none of its own, is counted."""

EVENT_FIGURES = (
    "event_recall", "event_precision", "false_alarms", "range_recall", "range_precision"
)  # fmt: skip
"""What `event_metrics` gives."""


@dataclass(frozen=True)
class EventCounts:
    """What the event metrics need of one signal at one threshold.

    Attributes:
        patient: whose signal it is, the unit of resampling.
        samples: samples seen.
        events: true events, of which at least a sample was seen.
        found: events in which the trace exceeds the threshold.
        false_alarms: runs of flagged samples outside every event.
        alarms: runs of flagged samples.
        recalled: sum of the events' `range_rewards`.
        confirmed: sum of the alarms' `range_rewards`.
    """

    patient: str
    samples: int
    events: int
    found: int
    false_alarms: int
    alarms: int
    recalled: float
    confirmed: float


def count_events(
    patient: str,
    trace: ArrayLike,
    labels: ArrayLike,
    threshold: float,
    *,
    seen: ArrayLike | None = None,
    tolerance: int = 0,
) -> EventCounts:
    """Counts events, alarms and their overlap in one signal.

    Args:
        patient: whose signal it is.
        trace: (T,) anomaly trace, higher is more anomalous.
        labels: (T,) True in events.
        threshold: a sample is flagged above it; fixed on normal signals.
        seen: (T,) False in gaps, which count for nothing; None takes all samples.
        tolerance: seen samples before and after an event in which an alarm still finds it and is
            no false one. The overlap, and so range recall and precision, knows none.

    Returns:
        The counts.

    Raises:
        InputError: if shapes differ, or the trace or the threshold has NaN where samples are seen.
    """
    values, truth = np.asarray(trace, dtype=np.float64), np.asarray(labels).astype(bool)
    kept = np.ones(values.shape, bool) if seen is None else np.asarray(seen).astype(bool)
    if values.ndim != 1 or not values.shape == truth.shape == kept.shape:
        raise InputError(
            "Arguments 'trace', 'labels' and 'seen' must be 1-D of one length (T,), got "
            f"{values.shape}, {truth.shape} and {kept.shape} for patient {patient!r}."
        )
    values, truth = values[kept], truth[kept]
    if np.isnan(values).any() or np.isnan(threshold):
        raise InputError(
            f"Arguments 'trace' and 'threshold' of patient {patient!r} must be numbers wherever "
            "'seen' is True: found NaN."
        )
    flagged = values > threshold
    near = binary_dilation(truth, iterations=tolerance) if tolerance else truth
    events = runs(truth)
    reach = [(max(0, start - tolerance), stop + tolerance) for start, stop in events]
    return EventCounts(
        patient=patient,
        samples=int(kept.sum()),
        events=len(events),
        found=sum(bool(flagged[start:stop].any()) for start, stop in reach),
        false_alarms=len(runs(flagged & ~near)),
        alarms=len(runs(flagged)),
        recalled=float(range_rewards(truth, flagged).sum()),
        confirmed=float(range_rewards(flagged, truth).sum()),
    )


def runs(mask: Mask) -> NDArray[np.intp]:
    """Where runs of True begin and end.

    Args:
        mask: (T,) bool.

    Returns:
        (K, 2) first index, and the index after the last.
    """
    return np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)


def range_rewards(ranges: Mask, others: Mask) -> Floats:
    """How well each range is covered by others (Tatbul et al., NeurIPS 2018).

    The mean over the true events is range recall, over the alarms range precision. All samples of
    a range weigh alike, and being touched at all counts nothing by itself; the overlap is divided
    by the number of ranges that make it up, so that one whole answer is worth more than many
    fragments.

    Args:
        ranges: (T,) True in the ranges that are judged.
        others: (T,) True in those that should cover them.

    Returns:
        (K,) rewards in [0, 1] of the ranges, in their order.
    """
    place = np.flatnonzero(ranges)
    if not place.size:
        return np.zeros(0)
    starts, stops = runs(ranges).T
    lengths = stops - starts
    groups = np.cumsum(lengths) - lengths
    covered = others[place]
    begins = covered & (np.isin(place, starts) | ~others[place - 1])
    covered_samples, pieces = (
        np.add.reduceat(one.astype(np.float64), groups) for one in (covered, begins)
    )
    rewards: Floats = covered_samples / lengths / np.maximum(pieces, 1)
    return rewards


def event_metrics(
    cases: Sequence[EventCounts],
    *,
    per: float = FALSE_ALARMS_PER,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Figure]:
    """Metrics over the events and alarms of all signals.

    Args:
        cases: the counts of each signal, at one threshold and tolerance.
        per: seen samples to which the false alarms refer; those of an hour give them per hour.
        resamples: bootstrap resamples of patients.
        seed: seed of the bootstrap.

    Returns:
        `event_recall`, the share of events found; `event_precision`, of found events among these
        and the false alarms; `false_alarms`, how many in `per` samples; `range_recall` and
        `range_precision`, the mean rewards of events and of alarms. None where there is no event,
        or no alarm.
    """
    if not cases:
        return {name: Figure(None) for name in EVENT_FIGURES}
    of = {
        name: np.array([getattr(case, name) for case in cases], dtype=np.float64)
        for name in EventCounts.__dataclass_fields__
        if name != "patient"
    }
    patients = np.array([case.patient for case in cases])
    fractions = (
        (of["found"], of["events"]),
        (of["found"], of["found"] + of["false_alarms"]),
        (per * of["false_alarms"], of["samples"]),
        (of["recalled"], of["events"]),
        (of["confirmed"], of["alarms"]),
    )

    def statistics(weights: Floats) -> Floats:
        return np.stack([ratio(weights @ above, weights @ below) for above, below in fractions], 1)

    over = [len(np.unique(patients[below > 0])) for _, below in fractions]
    bootstrap = draw_patients(patients, of["events"] > 0, resamples, seed)
    return bootstrap.figures(EVENT_FIGURES, statistics, over)


def matched_events(
    cases: Sequence[EventCounts], by_level: Sequence[Sequence[EventCounts]]
) -> Sequence[EventCounts]:
    """A trivial trace's counts at the lowest level with no more false alarms than ours.

    The level is chosen on the test signals, in favour of the trivial trace: an oracle.

    Args:
        cases: our counts of each signal.
        by_level: the trivial trace's of each signal, at each of `LEVELS`.

    Returns:
        Its counts of each signal at that level, or at the highest.
    """
    allowed = sum(case.false_alarms for case in cases)
    levels = list(zip(*by_level, strict=True))
    fitting = (one for one in levels if sum(case.false_alarms for case in one) <= allowed)
    return next(fitting, levels[-1])

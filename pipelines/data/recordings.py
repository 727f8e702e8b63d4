"""A few long recordings divided in time, where there are not enough sources to divide these."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from pipelines.common import counted
from pipelines.data.cases import Case, Cohort, SplitName
from pipelines.data.layouts.files import shortened
from pipelines.data.splits import SPLITS, checked_fractions, may_train
from transforms.errors import InputError
from transforms.signals import read_signal

LEAST_WINDOWS = 10
"""Windows of a stretch: fewer, and its most anomalous tenth would be no mean."""

MOST_STRETCHES = 50
"""Stretches of a recording that calibrate."""

NAME = re.compile(r"(.+)_(\d+)-(\d+)")


def divided_in_time(
    cohort: Cohort, fractions: Sequence[float], window: int, stride: int
) -> tuple[Cohort, list[str]]:
    """Divides recordings in time, if they come from too few sources for three parts.

    The earlier part of each trains, the next one calibrates and the last one tests, with a guard of
    one window between. What calibrates is cut into stretches of at least `LEAST_WINDOWS` windows,
    each counting as one source.

    Args:
        cohort: signals.
        fractions: of the samples for training, calibration and test.
        window: samples of a window.
        stride: samples from one window to the next.

    Returns:
        The cohort, and what is to be noted of it; as it was where there are sources enough.

    Raises:
        InputError: if a recording is too short for that.
    """
    free = [one for one in cohort.cases if one.split is None and may_train(one, True)]
    fixed = any(one.split == "train" for one in cohort.cases)
    if fixed or not free or len({one.patient for one in free}) >= len(SPLITS):
        return cohort, []
    shares = checked_fractions(fractions)
    found = [part for one in free for part in _parts(one, shares, window, stride)]
    cases = (*found, *(one for one in cohort.cases if one not in free))
    assert_apart(cases, window)
    stretches = sum(one.split == "calibration" for one in found)
    note = (
        f"{counted(len(free), 'source')} only ({shortened(one.name for one in free)}), divided in "
        f"time: the earlier part trains, the later tests, a window apart. What calibrates counts "
        f"as {counted(stretches, 'source')}, which holds where the signal does not drift. "
        "Figures say nothing of other sources."
    )
    return replace(cohort, cases=tuple(sorted(cases, key=lambda one: one.name))), [note]


def in_stretches(cases: Sequence[Case], window: int, stride: int) -> tuple[Case, ...]:
    """Normal recordings of too few sources as stretches that calibrate; others as they are."""
    if len({one.patient for one in cases}) >= len(SPLITS):
        return tuple(cases)
    found = []
    for case in cases:
        first, end = case.span or (0, read_signal(case.images[0]).values.shape[1])
        found += _stretches(case, first, end, window, stride) or [case]
    return tuple(found)


def divided_like(cohort: Cohort, split: Mapping[Any, Sequence[str]]) -> Cohort:
    """The recordings divided as the names in a split say, such as ``rec_0-2400``."""
    cases: list[Case] = []
    for case in cohort.cases:
        spans = [
            (part, (int(told[2]), int(told[3])))
            for part in SPLITS
            for name in split.get(part, ())
            if (told := NAME.fullmatch(name)) and told[1] == case.name
        ]
        cases += [_part(case, part, *span) for part, span in spans] or [case]
    return replace(cohort, cases=tuple(cases))


def assert_apart(cases: Sequence[Case], window: int) -> None:
    """Refuses parts of one recording that lie less than a window apart.

    Raises:
        AssertionError: naming the two.
    """
    spans = sorted(
        (one.images[0], one.span, one.split, one.name) for one in cases if one.span is not None
    )
    for (file, span, split, name), (other, after, later, second) in pairwise(spans):
        gap = after[0] - span[1]
        if file == other and gap < (window if split != later else 0):
            raise AssertionError(f"{name} and {second} are {gap} samples apart.")


def _parts(case: Case, shares: Mapping[SplitName, float], window: int, stride: int) -> list[Case]:
    length = read_signal(case.images[0]).values.shape[1]
    first = int(length * shares["train"])
    second = int(length * (shares["train"] + shares["calibration"]))
    start = first + window
    stretches = _stretches(case, start, second, window, stride)
    if not stretches or first < window:
        needed = int((2 * window + (LEAST_WINDOWS - 1) * stride) / shares["calibration"]) + 1
        raise InputError(
            f"{case.images[0]}: {counted(length, 'sample')} are too few to be divided in time into "
            f"training, calibration and test; with a window of {window} at least {needed} are "
            "needed. Give more recordings, or a smaller --window."
        )
    found = [_part(case, "train", 0, first), *stretches]
    if length - second - window >= window:
        found.append(_part(case, "test", second + window, length))
    return found


def _stretches(case: Case, first: int, end: int, window: int, stride: int) -> list[Case]:
    count = min(MOST_STRETCHES, (end - first) // (window + (LEAST_WINDOWS - 1) * stride))
    ends = [first + (end - first) * n // max(1, count) for n in range(count + 1)]
    return [_part(case, "calibration", *span) for span in pairwise(ends)]


def _part(case: Case, split: SplitName, first: int, end: int) -> Case:
    told = f"_{first}-{end}"
    return replace(
        case, name=case.name + told, patient=case.patient + told, split=split, span=(first, end)
    )

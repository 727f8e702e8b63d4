"""Dividing a cohort by patient into training, calibration and test cases."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from networks.choices import nearest
from pipelines.common import counted
from pipelines.data.cases import Case, Cohort, SplitName
from pipelines.data.layouts.files import shortened
from transforms.errors import InputError

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
DEFAULT_FRACTIONS = (0.6, 0.2, 0.2)
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Split:
    """The cases to train, calibrate and test on; no patient is in two of them.

    Attributes:
        train: normal cases, or volumes whose mask tells the normal slices, sorted by name.
        calibration: held-out cases of the same kind, sorted by name.
        test: all other cases, sorted by name.
        notes: what was left out or moved.
    """

    train: tuple[Case, ...]
    calibration: tuple[Case, ...]
    test: tuple[Case, ...]
    notes: tuple[str, ...] = ()

    def cases(self, name: SplitName) -> tuple[Case, ...]:
        """Return the cases of one part."""
        return {"train": self.train, "calibration": self.calibration, "test": self.test}[name]

    def patients(self, name: SplitName) -> tuple[str, ...]:
        """Return the patients of one part, sorted."""
        return tuple(sorted({case.patient for case in self.cases(name)}))

    def as_dict(self) -> dict[str, list[str]]:
        """Return the case names of each part, in the form that a split file has."""
        return {name: [case.name for case in self.cases(name)] for name in SPLITS}


def split_cohort(
    cohort: Cohort,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    split_file: str | Path | None = None,
) -> Split:
    """Divide a cohort by patient.

    A split file decides alone. Else cases whose split the cohort fixes keep it, except that the
    patients fixed to train are divided into train and calibration (by the calibration fraction)
    unless some are fixed to calibration; patients with an anomalous case go to test; all others
    are divided by the fractions. If then no test case could be normal, the test fraction of the
    patients fixed to train is held out for that. The draw depends on the seed and the patients'
    identifiers alone, not on the order of files. Cases with neither label nor mask are left out.

    Args:
        cohort: the cases.
        fractions: shares of patients for train, calibration and test, adding to 1. Each positive
            share gets at least one patient; only that of test may be 0.
        seed: of the draw.
        split_file: JSON file ``{"train": [...], "calibration": [...], "test": [...]}`` with names
            of cases or patients; ``Split.as_dict()`` has this form.

    Raises:
        InputError: if the fractions or the file are wrong, there are too few patients, an
            anomalous case would train, or a patient would be on two sides.
    """
    notes: list[str] = []
    if split_file is not None:
        parts = _from_file(cohort, Path(split_file), notes)
    else:
        parts = _drawn(cohort, checked_fractions(fractions), seed, notes)
    by_name = {
        name: tuple(sorted(parts.get(name, ()), key=lambda case: case.name)) for name in SPLITS
    }
    split = Split(by_name["train"], by_name["calibration"], by_name["test"], tuple(notes))
    assert_disjoint(split)
    _check_training(split, cohort.volumetric)
    return split


def assert_disjoint(split: Split) -> None:
    """Refuse a split that has a patient on two sides.

    Raises:
        InputError: naming these patients and the sides.
    """
    sides: dict[str, list[str]] = defaultdict(list)
    for name in SPLITS:
        for patient in split.patients(name):
            sides[patient].append(name)
    both = [f"{patient} ({' and '.join(on)})" for patient, on in sides.items() if len(on) > 1]
    if both:
        raise InputError(
            f"split: {counted(len(both), 'patient')} on two sides: {shortened(sorted(both), 10)}. "
            "Every patient must be on one side only. Move or remove the images of one side; if "
            "files of different patients merely share a name, give each patient a folder, or name "
            "the patients in a cases.csv."
        )


def _drawn(
    cohort: Cohort, fractions: Mapping[SplitName, float], seed: int, notes: list[str]
) -> dict[SplitName, list[Case]]:
    usable = _usable(cohort.cases, notes)
    sides = _sides(usable, cohort.volumetric)
    fixed = {name: [p for p, side in sides.items() if side == name] for name in SPLITS}
    free = [patient for patient, side in sides.items() if side is None]
    drawn: dict[str, SplitName] = {patient: side for patient, side in sides.items() if side}
    if free:
        drawn |= _draw(free, fractions, seed, "in the data set")
    if fixed["train"] and not fixed["calibration"]:
        shares = _shares_of_train(fractions, usable, drawn, notes)
        drawn |= _draw(fixed["train"], shares, seed, "among those for training")
    parts: dict[SplitName, list[Case]] = defaultdict(list)
    for case in usable:
        parts[drawn[case.patient]].append(case)
    return parts


def _usable(cases: Iterable[Case], notes: list[str]) -> list[Case]:
    cases = list(cases)
    usable = [case for case in cases if _is_usable(case)]
    left_out = [case for case in cases if not _is_usable(case)]
    if left_out:
        notes.append(
            f"{counted(len(left_out), 'case')} with neither label nor mask left out: "
            f"{shortened(case.name for case in left_out)}."
        )
    return usable


def _is_usable(case: Case) -> bool:
    return case.label is not None or case.mask is not None


def may_train(case: Case, volumetric: bool) -> bool:
    """Tell whether a case is normal, or a volume whose mask tells its normal slices."""
    return case.label == 0 or (volumetric and case.label is None and case.mask is not None)


def _sides(cases: Sequence[Case], volumetric: bool) -> dict[str, SplitName | None]:
    """Map each patient to the side that its cases fix, or None where they fix none."""
    fixed: dict[SplitName, list[Case]] = defaultdict(list)
    for case in cases:
        side = case.split or (None if may_train(case, volumetric) else "test")
        if side is not None:
            fixed[side].append(case)
    train, calibration, test = (tuple(fixed[name]) for name in SPLITS)
    assert_disjoint(Split(train, calibration, test))
    of_patient = {case.patient: side for side, members in fixed.items() for case in members}
    return {patient: of_patient.get(patient) for patient in {case.patient for case in cases}}


def _shares_of_train(
    fractions: Mapping[SplitName, float],
    cases: Sequence[Case],
    drawn: Mapping[str, SplitName],
    notes: list[str],
) -> dict[SplitName, float]:
    test = [case for case in cases if drawn[case.patient] == "test"]
    held_out = 0.0
    if test and all(case.label == 1 for case in test):
        held_out = fractions["test"]
        notes.append(
            f"No normal test cases are given: {held_out:g} of the normal training patients are "
            "held out for the test."
            if held_out
            else "No normal test cases are given, and the test fraction is 0."
        )
    calibration = fractions["calibration"]
    return {"train": 1 - calibration - held_out, "calibration": calibration, "test": held_out}


def _draw(
    patients: Iterable[str], shares: Mapping[SplitName, float], seed: int, where: str
) -> dict[str, SplitName]:
    ranked = sorted(set(patients), key=lambda patient: (_rank(patient, seed), patient))
    sizes = _sizes(len(ranked), shares, where)
    sides = [name for name in SPLITS for _ in range(sizes[name])]
    return dict(zip(ranked, sides, strict=True))


def _rank(patient: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()


def _sizes(count: int, shares: Mapping[SplitName, float], where: str) -> dict[SplitName, int]:
    wanted = [name for name in SPLITS if shares[name] > 0]
    if count < len(wanted):
        raise InputError(
            f"split: expected at least {counted(len(wanted), 'patient')} {where}, one each for "
            f"{', '.join(wanted)}; found {count}. Add patients, or fix the split in a split_file."
        )
    sizes = {name: 0 for name in SPLITS}
    for name in wanted[1:]:
        sizes[name] = max(1, math.floor(shares[name] * count + 0.5))
    while sum(sizes.values()) > count - 1:
        sizes[max(wanted[1:], key=lambda name: sizes[name])] -= 1
    sizes[wanted[0]] = count - sum(sizes.values())
    return sizes


def checked_fractions(fractions: Sequence[float]) -> dict[SplitName, float]:
    """The shares by the names of their parts.

    Raises:
        InputError: if they are no three shares that add to 1.
    """
    values = tuple(fractions) if isinstance(fractions, Sequence) else ()
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    sound = len(values) == 3 and numbers and min(values) >= 0
    if not sound or abs(sum(values) - 1) > _TOLERANCE or 0 in values[:2]:
        raise InputError(
            "fractions: expected three shares for train, calibration and test that add to 1, the "
            f"first two positive, such as {DEFAULT_FRACTIONS}; found {fractions!r}. Mend them."
        )
    return dict(zip(SPLITS, values, strict=True))


def _check_training(split: Split, volumetric: bool) -> None:
    names: tuple[SplitName, SplitName] = ("train", "calibration")
    for name in names:
        wrong = [case.name for case in split.cases(name) if not may_train(case, volumetric)]
        if wrong:
            raise InputError(
                f"split: {name} may hold normal cases (or volumes with masks) only, found "
                f"{counted(len(wrong), 'other case')}: {shortened(wrong)}. Move these to test."
            )
        if not split.cases(name):
            raise InputError(
                f"split: {name} is empty. Give normal cases (or volumes with masks) of at least "
                "one patient."
            )


def _from_file(cohort: Cohort, path: Path, notes: list[str]) -> dict[SplitName, list[Case]]:
    by_name = {case.name: [case] for case in cohort.cases}
    by_patient: dict[str, list[Case]] = defaultdict(list)
    for case in cohort.cases:
        by_patient[case.patient].append(case)
    parts: dict[SplitName, list[Case]] = {}
    unknown = []
    for side, names in load_split(path).items():
        members = {}
        for name in names:
            found = by_name.get(name) or by_patient.get(name)
            if found is None:
                unknown.append(name)
            members.update({case.name: case for case in found or ()})
        parts[side] = list(members.values())
    if unknown:
        known = [*by_name, *by_patient]
        raise InputError(
            f"split: {path}: {counted(len(unknown), 'name')} unknown to the data set: "
            f"{shortened(unknown)}. Expected names of cases or "
            f"patients, such as {shortened(known, 2)}. Mend the names. "
            f"{nearest(unknown[0], known)}"
        )
    _check_usable(path, parts)
    notes += _file_notes(cohort, parts)
    return parts


def load_split(path: Path) -> dict[SplitName, list[str]]:
    """The names in a split file, see `split_cohort`.

    Raises:
        InputError: if it is none.
    """
    expected = '{"train": [...], "calibration": [...], "test": [...]} with names'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"split: {path}: expected a JSON file {expected}; found {error}. Mend the file."
        ) from error
    lists = isinstance(content, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in content.values()
    )
    if not lists or set(content) != set(SPLITS):
        keys = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        found = (keys or "nothing") + ("" if lists else ", not all of them lists of names")
        raise InputError(f"split: {path}: expected {expected}; found {found}. Mend the file.")
    return {name: content[name] for name in SPLITS}


def _check_usable(path: Path, parts: Mapping[SplitName, Sequence[Case]]) -> None:
    bad = [case.name for members in parts.values() for case in members if not _is_usable(case)]
    if bad:
        raise InputError(
            f"split: {path} names {counted(len(bad), 'case')} with neither label nor mask: "
            f"{shortened(bad)}. Take them out, or give labels or masks."
        )


def _file_notes(cohort: Cohort, parts: Mapping[SplitName, Sequence[Case]]) -> list[str]:
    named = {case.name for members in parts.values() for case in members}
    missing = [case.name for case in cohort.cases if case.name not in named]
    moved = [
        case.name
        for side, members in parts.items()
        for case in members
        if case.split is not None and (case.split == "test") != (side == "test")
    ]
    notes = []
    if missing:
        notes.append(
            f"{counted(len(missing), 'case')} not named in the split file left out: "
            f"{shortened(missing)}."
        )
    if moved:
        notes.append(
            f"The split file moves {counted(len(moved), 'case')} between training and test against "
            f"the data set's own split: {shortened(moved)}."
        )
    return notes

"""From a data folder to patients divided into training, calibration and test."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from networks.choices import nearest
from pipelines.common import counted, main_first
from pipelines.data.cases import Case, Cohort
from pipelines.data.layouts import read_cohort
from pipelines.data.layouts.files import shortened
from pipelines.data.layouts.reading import parse_modalities
from pipelines.data.phantom.writer import ensure_phantom_dataset
from pipelines.data.recordings import divided_in_time, divided_like, in_stretches
from pipelines.data.signals import reads_signals
from pipelines.data.splits import (
    DEFAULT_FRACTIONS,
    SPLITS,
    Split,
    load_split,
    may_train,
    split_cohort,
)
from transforms.errors import InputError
from transforms.signals import usual_stride

logger = logging.getLogger(__name__)

PHANTOM_NOTE = (
    "These are computer-made phantoms for trying the program; figures on them say nothing about "
    "real scans."
)


CONTENT_BYTES = 1 << 16
"""Bytes at the start and in the middle of a file that tell it from others, with its size."""

UNREADABLE = "none"
"""In place of the content of a file that cannot be read."""


@dataclass(frozen=True)
class Data:
    """A cohort, divided by patient.

    Attributes:
        cohort: what the layout found.
        split: its patients divided.
        notes: warnings that results on these data must carry.
    """

    cohort: Cohort
    split: Split
    notes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Hash over names, sizes and split of all files: equal data give an equal fingerprint."""
        digest = hashlib.sha256()
        for part in SPLITS:
            for case in self.split.cases(part):
                sizes = [p.stat().st_size if p.is_file() else -1 for p in case.images]
                digest.update(f"{part}:{case.name}:{case.label}:{sizes}\n".encode())
        return digest.hexdigest()[:16]


def count_channels(
    channels: int | None = None, modalities: str | Sequence[str] | None = None
) -> int:
    """Number of channels of the images as the options tell it; no file is opened.

    Args:
        channels: None takes one per modality.
        modalities: None stands for the one that a layout takes by default.
    """
    return channels or len(parse_modalities(modalities) or ("default",))


def open_data(
    dataset_dir: str | None = None,
    layout: str = "auto",
    modalities: str | Sequence[str] | None = None,
    seed: int = 0,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    split: str | None = None,
    patient_pattern: str | None = None,
    windows: tuple[int, int | None] | None = None,
) -> Data:
    """Opens a data set and divides its patients.

    Args:
        dataset_dir: the data folder; None takes the phantom set, which is made when first needed.
        layout: name of the layout, or ``auto``.
        modalities: the channels, e.g. ``"flair"`` or ``["flair", "t2"]``; None for the layout's
            default.
        seed: of the division.
        fractions: of the patients for training, calibration and test.
        split: a JSON file that decides the division instead.
        patient_pattern: regular expression that finds the patient in a file's name (``folder``).
        windows: of signals, their length and stride in samples, by which a few long recordings are
            divided in time.

    Raises:
        InputError: when the data cannot be used as they are.
    """
    cohort, notes = _read(dataset_dir, layout, modalities, patient_pattern)
    if cohort.signals and split is not None:
        cohort = divided_like(cohort, load_split(Path(split)))
    elif cohort.signals and windows is not None:
        window, stride = windows
        cohort, told = divided_in_time(cohort, fractions, window, usual_stride(window, stride))
        notes += told
    divided = split_cohort(cohort, fractions, seed, split)
    notes += [*cohort.notes, *divided.notes]
    data = Data(cohort, divided, tuple(notes))
    _tell(data)
    return data


def _read(
    dataset_dir: str | None,
    layout: str,
    modalities: str | Sequence[str] | None,
    patient_pattern: str | None,
) -> tuple[Cohort, list[str]]:
    notes: list[str] = []
    if not dataset_dir:
        with main_first():
            dataset_dir, layout = str(ensure_phantom_dataset()), "brats"
        notes.append(PHANTOM_NOTE)
    return read_cohort(dataset_dir, layout, modalities, patient_pattern=patient_pattern), notes


def _tell(data: Data) -> None:
    cohort, split = data.cohort, data.split
    logger.info("Data: %s, layout %s (%s)", cohort.root, cohort.layout, cohort.reason)
    for name in SPLITS:
        cases, patients = split.cases(name), split.patients(name)
        if cases:
            found = f"{counted(len(cases), 'case')} of {counted(len(patients), 'patient')}"
            logger.info("  %s: %s", name, found)
    for note in data.notes:
        logger.info("  Note: %s", note)


def seen_content(data: Data, labelled: Sequence[Case] = ()) -> list[str]:
    """Fingerprints of the files that trained or calibrated, whatever they are called elsewhere.

    Args:
        data: the data set.
        labelled: further cases that trained.
    """
    return _contents((*data.split.train, *data.split.calibration, *labelled))


def content_digest(cases: Iterable[Case]) -> str:
    """Hash over the content of the cases' files, whatever they are called."""
    return hashlib.sha256("".join(_contents(cases)).encode()).hexdigest()[:16]


def _contents(cases: Iterable[Case]) -> list[str]:
    return sorted({told for case in cases for told in (*_keys(case), *_files(case))})


def _files(case: Case) -> list[str]:
    return [_content(path) for path in case.images]


def _keys(case: Case) -> list[str]:
    """By what a case is known: its files, or its part of one."""
    if case.span is None:
        return _files(case)
    return [hashlib.sha256(f"{_files(case)}{case.span}".encode()).hexdigest()[:16]]


def seen_by(model: Mapping[str, Any], cases: Sequence[Case]) -> list[Case]:
    """Those of the cases that trained or calibrated a model, whatever they are called here.

    What cannot be read counts as unseen: reading it as a case says why.
    """
    known = set(model.get("seen", ())) - {UNREADABLE}
    return [case for case in cases if not known.isdisjoint(_keys(case))]


def _content(image: Path) -> str:
    """Hash over size, start and middle of a file, or of the first file of a DICOM series."""
    try:
        if image.is_dir():
            image = min((path for path in image.iterdir() if path.is_file()), default=image)
        with image.open("rb") as file:
            digest = hashlib.sha256(file.read(CONTENT_BYTES))
            file.seek(image.stat().st_size // 2)  # uncompressed volumes all start with background
            digest.update(file.read(CONTENT_BYTES))
        digest.update(str(image.stat().st_size).encode())
    except OSError:
        return UNREADABLE
    return digest.hexdigest()[:16]


def open_data_like(
    model: Mapping[str, Any],
    dataset_dir: str | None = None,
    layout: str = "auto",
    modalities: str | Sequence[str] | None = None,
    split: str | None = None,
    patient_pattern: str | None = None,
    cases: str | Sequence[str] | None = None,
    limit: int | None = None,
) -> Data:
    """Opens a data set for a trained model; its test part is what the model has not seen.

    Of a data set with a test part of its own, such as ``test/`` of layout ``folder``, the rest is
    left out, unless all of that part is anomalous.

    Args:
        model: content of the model file, which records modalities and its own split.
        dataset_dir: see `open_data`.
        layout: see `open_data`.
        modalities: None takes the model's.
        split: a JSON file; its test part is evaluated.
        patient_pattern: see `open_data`.
        cases: names of the cases to evaluate, e.g. ``"['a','b']"``; None takes all.
        limit: the most cases to evaluate, the first ones; None takes all.

    Raises:
        InputError: when the channels differ from the model's or no case is left.
    """
    if not dataset_dir and PHANTOM_NOTE not in model["notes"]:
        raise InputError(
            "dataset_dir: this model was trained on data of your own. Name the folder to evaluate "
            "with --dataset_dir."
        )
    cohort, notes, seen = _read_like(model, dataset_dir, layout, modalities, patient_pattern)
    wanted = _test_part(cohort) if split is None else split_cohort(cohort, split_file=split).test
    left = tuple(case for case in wanted if case.patient not in seen)
    if not left:
        raise InputError(
            f"dataset_dir: all {len(wanted)} cases of {cohort.root} are of patients that were used "
            f"to train or calibrate this model. Evaluate on other patients."
        )
    skipped = len(cohort.cases) - len(left)
    if skipped:
        notes.append(
            f"{counted(skipped, 'case')} left out: the model has seen them, or they are not for "
            "testing."
        )
    left = _asked_for(left, cases, limit)
    data = Data(cohort, Split((), (), left), tuple([*notes, *cohort.notes]))
    _tell(data)
    return data


def open_normals(
    model: Mapping[str, Any],
    dataset_dir: str,
    layout: str = "normals",
    modalities: str | Sequence[str] | None = None,
    patient_pattern: str | None = None,
) -> Data:
    """Opens normal images by which a trained model is calibrated anew; all are its calibration.

    Args:
        model: content of the model file.
        dataset_dir: see `open_data`.
        layout: see `open_data`; of another than ``normals`` the normal cases are taken, and
            volumes whose masks tell their normal slices.
        modalities: None takes the model's.
        patient_pattern: see `open_data`.

    Raises:
        InputError: when the images are not of the model's kind, or no normal case is left.
    """
    if not dataset_dir:
        raise InputError("dataset_dir: name the folder of normal images with --dataset_dir.")
    if layout == "normals" and reads_signals(model):
        layout = "signals"
    cohort, notes, seen = _read_like(model, dataset_dir, layout, modalities, patient_pattern)
    normal = tuple(case for case in cohort.cases if may_train(case, cohort.volumetric))
    left = tuple(case for case in normal if case.patient not in seen)
    if not left:
        raise InputError(
            f"dataset_dir: {cohort.root} holds {len(normal)} normal cases, all of patients that "
            "the model was trained or calibrated on: these cannot tell what it does with others. "
            "Give normal images of other patients."
        )
    if len(left) < len(normal):
        skipped = counted(len(normal) - len(left), "case")
        notes.append(f"{skipped} left out: the model has seen them.")
    if reads_signals(model):
        told = model["preprocessing"]
        left = in_stretches(left, told["window"], told["stride"])
    data = Data(cohort, Split((), left, ()), tuple([*notes, *cohort.notes]))
    _tell(data)
    return data


def _read_like(
    model: Mapping[str, Any],
    dataset_dir: str | None,
    layout: str,
    modalities: str | Sequence[str] | None,
    patient_pattern: str | None,
) -> tuple[Cohort, list[str], set[str]]:
    """A cohort of the model's kind, what is to be noted of it, and the patients it has seen."""
    cohort, notes = _read(dataset_dir, layout, modalities or model["modalities"], patient_pattern)
    if cohort.signals:
        cohort = divided_like(cohort, model["split"])
    if len(cohort.modalities) != len(model["modalities"]):
        raise InputError(
            f"modalities: the model reads {', '.join(model['modalities'])}, found "
            f"{', '.join(cohort.modalities)}. Evaluate with the same modalities."
        )
    if cohort.volumetric != bool(model["volumetric"]):
        kinds = {True: "volumes", False: "pictures"}
        raise InputError(
            f"dataset_dir: the model was trained on {kinds[not cohort.volumetric]}, but "
            f"{cohort.root} holds {kinds[cohort.volumetric]}. Evaluate on files of the same kind."
        )
    if cohort.signals != reads_signals(model):
        found, known = ("signals", "images") if cohort.signals else ("images", "signals")
        raise InputError(
            f"dataset_dir: {cohort.root} holds {found}, but the model was trained on {known}. "
            "Evaluate on files of the same kind."
        )
    used = {name for part in ("train", "calibration") for name in model["split"][part]}
    seen = {case.patient for case in cohort.cases if case.name in used}
    seen |= {case.patient for case in seen_by(model, cohort.cases)}
    return cohort, notes, seen


def _test_part(cohort: Cohort) -> tuple[Case, ...]:
    """The cases that the data set itself gives for testing; all where there is none normal."""
    test = tuple(case for case in cohort.cases if case.split == "test")
    return cohort.cases if all(case.label == 1 for case in test) else test


def _asked_for(
    left: tuple[Case, ...], names: str | Sequence[str] | None, limit: int | None
) -> tuple[Case, ...]:
    """The cases that were named, at most `limit` of them."""
    if names is not None:
        listed = str(names).split(",") if isinstance(names, (str, int)) else map(str, names)
        wanted = {name.strip() for name in listed}
        known = [case.name for case in left]
        for name in sorted(wanted - set(known)):
            raise InputError(
                f"cases: {name!r} is not among the {len(left)} cases that can be evaluated. "
                f"{nearest(name, known) or 'Known: ' + shortened(known) + '.'}"
            )
        left = tuple(case for case in left if case.name in wanted)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise InputError(f"limit: expected a number of cases from 1, found {limit!r}.")
    return left[:limit]

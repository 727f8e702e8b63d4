"""From a data folder to patients divided into training, calibration and test."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.cases import Cohort
from pipelines.layouts import read_cohort
from pipelines.phantom import ensure_phantom_dataset
from pipelines.splits import DEFAULT_FRACTIONS, SPLITS, Split, split_cohort
from transforms.errors import InputError

logger = logging.getLogger(__name__)

PHANTOM_NOTE = (
    "These are computer-made phantoms for trying the program; figures on them say nothing about "
    "real scans."
)


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


def open_data(
    dataset_dir: str | None = None,
    layout: str = "auto",
    modalities: str | Sequence[str] | None = None,
    seed: int = 0,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    split: str | None = None,
    patient_pattern: str | None = None,
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

    Raises:
        InputError: when the data cannot be used as they are.
    """
    cohort, notes = _read(dataset_dir, layout, modalities, patient_pattern)
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
        dataset_dir, layout = str(ensure_phantom_dataset()), "brats"
        notes.append(PHANTOM_NOTE)
    return read_cohort(dataset_dir, layout, modalities, patient_pattern=patient_pattern), notes


def _tell(data: Data) -> None:
    cohort, split = data.cohort, data.split
    logger.info("Data: %s, layout %s (%s)", cohort.root, cohort.layout, cohort.reason)
    for name in SPLITS:
        cases, patients = split.cases(name), split.patients(name)
        if cases:
            logger.info("  %s: %d cases of %d patients", name, len(cases), len(patients))
    for note in data.notes:
        logger.info("  Note: %s", note)


def open_data_like(
    model: Mapping[str, Any],
    dataset_dir: str | None = None,
    layout: str = "auto",
    modalities: str | Sequence[str] | None = None,
    split: str | None = None,
    patient_pattern: str | None = None,
) -> Data:
    """Opens a data set for a trained model; its test part is all that the model has not seen.

    Args:
        model: content of the model file, which records modalities and its own split.
        dataset_dir: see `open_data`.
        layout: see `open_data`.
        modalities: None takes the model's.
        split: a JSON file; its test part is evaluated.
        patient_pattern: see `open_data`.

    Raises:
        InputError: when the channels differ from the model's or no case is left.
    """
    if not dataset_dir and PHANTOM_NOTE not in model["notes"]:
        raise InputError(
            "dataset_dir: this model was trained on data of your own. Name the folder to evaluate "
            "with --dataset_dir."
        )
    cohort, notes = _read(dataset_dir, layout, modalities or model["modalities"], patient_pattern)
    if len(cohort.modalities) != len(model["modalities"]):
        raise InputError(
            f"modalities: the model reads {', '.join(model['modalities'])}, found "
            f"{', '.join(cohort.modalities)}. Evaluate with the same modalities."
        )
    used = {name for part in ("train", "calibration") for name in model["split"][part]}
    wanted = cohort.cases
    if split is not None:
        wanted = split_cohort(cohort, split_file=split).test
    elif set(model["split"]["test"]) <= {case.name for case in cohort.cases}:
        wanted = tuple(case for case in cohort.cases if case.name in model["split"]["test"])
    seen = {case.patient for case in cohort.cases if case.name in used}
    left = tuple(case for case in wanted if case.patient not in seen)
    if not left:
        raise InputError(
            f"dataset_dir: all {len(wanted)} cases of {cohort.root} are of patients that were used "
            f"to train or calibrate this model. Evaluate on other patients."
        )
    skipped = len(cohort.cases) - len(left)
    if skipped:
        notes.append(
            f"{skipped} cases are left out: the model has seen them, or the split says so."
        )
    data = Data(cohort, Split((), (), left), tuple([*notes, *cohort.notes]))
    _tell(data)
    return data

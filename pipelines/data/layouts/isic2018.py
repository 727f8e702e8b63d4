"""Layout ``isic2018``: task 3 (lesion diagnosis) of the ISIC 2018 challenge as distributed."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from pipelines.common import counted
from pipelines.data.cases import Case, Cohort, SplitName
from pipelines.data.layouts.base import (
    Layout,
    Modalities,
    make_cohort,
    picture_modalities,
    register,
)
from pipelines.data.layouts.files import describe_tree, stem_of, subfolders
from pipelines.data.layouts.walk import left_out_notes, list_images
from transforms.errors import InputError

_PREFIX = "ISIC2018_Task3_"
_PARTS = ("Training", "Validation", "Test")
_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


@register("isic2018")
@dataclass(frozen=True)
class Isic2018Layout(Layout):
    """ISIC 2018 task 3: nevi (NV) are normal, every other diagnosis is anomalous.

    The nevi of the training part train. AE-FLOW (Zhao et al., ICLR 2023) tests on the validation
    part (123 nevi, 70 others), so that is the default. Patients are not published: the lesion
    takes their place where the lesion groupings are there, else the image.

    Attributes:
        test_part: ``Validation`` or ``Test``; by default the first of these that has images and
            ground truth.
    """

    expects = (
        "ISIC2018_Task3_Training_Input/*.jpg with ISIC2018_Task3_Training_GroundTruth/*.csv, the "
        "same for Validation or Test, optionally ISIC2018_Task3_Training_LesionGroupings.csv"
    )
    test_part: str | None = None

    def recognise(self, root: Path) -> str | None:
        """Recognise the name of the training input folder."""
        name = f"{_PREFIX}Training_Input"
        return f"it holds the folder {name}" if name in subfolders(root) else None

    def read(self, root: Path, modalities: Modalities) -> Cohort:
        """Read the training nevi and the test part.

        Raises:
            InputError: if a table is missing or malformed, no training nevus has an image, the
                test part is unknown, or modalities are asked for.
        """
        channels = picture_modalities(self.name, modalities)
        notes: list[str] = []
        training = _read_part(root, "Training", "train", _lesions(root, notes), notes)
        train = [case for case in training if case.label == 0]
        if not train:
            raise InputError(
                f"dataset_dir: no training image in {root} is a nevus (NV). Found\n"
                f"{describe_tree(root)}\nUnpack the training input and ground truth of task 3."
            )
        if len(train) < len(training):
            unused = counted(len(training) - len(train), "anomalous training image")
            notes.append(f"{unused} not used.")
        part = self._choose_test_part(root, notes)
        test = _read_part(root, part, "test", {}, notes) if part else []
        return make_cohort(self.name, root, [*train, *test], channels, False, notes)

    def _choose_test_part(self, root: Path, notes: list[str]) -> str | None:
        there = [part for part in _PARTS[1:] if _input(root, part).is_dir() and _table(root, part)]
        if self.test_part is not None and self.test_part not in there:
            raise InputError(
                f"test_part: expected one of {', '.join(_PARTS[1:])} with images and ground truth "
                f"in {root}, found {self.test_part!r}; complete are {', '.join(there) or 'none'}."
            )
        if not there:
            notes.append("There are no test images (neither Validation nor Test is complete).")
            return None
        part = self.test_part or there[0]
        others = "".join(f"; {other} is not used" for other in there if other != part)
        notes.append(f"The test images are the part {part} of the challenge{others}.")
        return part


def _input(root: Path, part: str) -> Path:
    return root / f"{_PREFIX}{part}_Input"


def _table(root: Path, part: str) -> Path | None:
    folder = root / f"{_PREFIX}{part}_GroundTruth"
    return next((path for path in sorted(folder.glob("*.csv")) if "Lesion" not in path.name), None)


def _read_part(
    root: Path, part: str, split: SplitName, lesions: dict[str, str], notes: list[str]
) -> list[Case]:
    table = _table(root, part)
    if table is None:
        raise InputError(
            f"dataset_dir: no table in {root / f'{_PREFIX}{part}_GroundTruth'}. Expected a CSV "
            f"with the columns image, {', '.join(_CLASSES)}; found\n{describe_tree(root)}\n"
            "Unpack the ground truth beside the images."
        )
    labels = _labels(table)
    listing = list_images(_input(root, part))
    files = {stem_of(path): path for path in listing.images}
    notes += left_out_notes([listing])
    missing = len(labels.keys() - files.keys())
    unknown = len(files.keys() - labels.keys())
    if missing:
        notes.append(f"{part}: {counted(missing, 'row')} without an image left out.")
    if unknown:
        notes.append(f"{part}: {counted(unknown, 'image')} without a diagnosis left out.")
    return [
        Case(name, lesions.get(name, name), (files[name],), label=labels[name], split=split)
        for name in sorted(labels.keys() & files.keys())
    ]


def _labels(table: Path) -> dict[str, int]:
    labels = {}
    for line, row in enumerate(_rows(table, ("image", *_CLASSES)), start=2):
        try:
            chosen = [name for name in _CLASSES if float(row[name]) == 1.0]
        except (TypeError, ValueError):
            chosen = []
        if len(chosen) != 1:
            raise InputError(
                f"{table}: line {line}: expected 1 in one of {', '.join(_CLASSES)} and 0 in the "
                f"others, found {', '.join(str(row[name]) for name in _CLASSES)}. Mend the table."
            )
        labels[row["image"]] = 0 if chosen == ["NV"] else 1
    return labels


def _lesions(root: Path, notes: list[str]) -> dict[str, str]:
    name = f"{_PREFIX}Training_LesionGroupings.csv"
    table = next((path for path in sorted([*root.glob(name), *root.glob(f"*/{name}")])), None)
    if table is None:
        notes.append(
            f"{name} is not there: images of one lesion cannot be kept together, each image counts "
            "as a patient."
        )
        return {}
    notes.append("Patients are not published: each lesion counts as a patient.")
    return {row["image"]: row["lesion_id"] for row in _rows(table, ("image", "lesion_id"))}


def _rows(table: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        found = reader.fieldnames or ()
        if not set(columns) <= set(found):
            raise InputError(
                f"{table}: expected the columns {', '.join(columns)}; found "
                f"{', '.join(found) or 'none'}. Take the table as distributed."
            )
        return list(reader)

"""The brain tumours of the Medical Segmentation Decathlon: all modalities in one 4-D file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pipelines.common import counted
from pipelines.data.cases import Case
from pipelines.data.layouts.files import folders_to_depth, shortened, stem_of
from transforms.errors import InputError


@dataclass(frozen=True)
class Decathlon:
    """What ``dataset.json`` says.

    Attributes:
        folder: where it lies.
        channels: the modality names in lower case and their channel indices.
        pairs: image and mask of each training case, relative to `folder`.
    """

    folder: Path
    channels: dict[str, int]
    pairs: tuple[tuple[str, str], ...]


def find_decathlon(root: Path) -> Decathlon | None:
    """Read the ``dataset.json`` beside ``imagesTr``, at most one level down.

    Other tasks of the Decathlon, told by their modalities, are passed over.

    Raises:
        InputError: if a dataset.json is malformed.
    """
    for level in folders_to_depth(root, 1):
        for folder in level:
            if (folder / "dataset.json").is_file() and (folder / "imagesTr").is_dir():
                decathlon = _load(folder)
                if "flair" in decathlon.channels:
                    return decathlon
    return None


def decathlon_cases(
    decathlon: Decathlon, channels: tuple[int, ...], notes: list[str]
) -> list[Case]:
    """Read the training cases; the test cases have no masks and are of no use here."""
    cases, absent = [], []
    for image_name, mask_name in decathlon.pairs:
        image, mask = decathlon.folder / image_name, decathlon.folder / mask_name
        if not image.is_file():
            absent.append(image.name)
            continue
        name = stem_of(image)
        found = mask if mask.is_file() else None
        cases.append(Case(name, name, (image,), mask=found, channels=channels))
    if absent:
        notes.append(
            f"{counted(len(absent), 'case')} of dataset.json without a file left out: "
            f"{shortened(absent)}."
        )
    return cases


def _load(folder: Path) -> Decathlon:
    table = folder / "dataset.json"
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        return Decathlon(
            folder,
            {name.lower(): int(index) for index, name in content["modality"].items()},
            tuple((str(row["image"]), str(row["label"])) for row in content["training"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f'{table}: expected JSON with "modality": {{"0": "FLAIR", ...}} and "training": '
            f'[{{"image": ..., "label": ...}}, ...]; found {type(error).__name__}: {error}. Take '
            "the file as distributed."
        ) from error

"""Layout ``brats``: the brain tumour challenges from 2017 on, and the Decathlon's version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from networks.choices import nearest
from pipelines.common import counted
from pipelines.data.cases import Case, Cohort
from pipelines.data.layouts.base import Layout, Modalities, make_cohort, register
from pipelines.data.layouts.decathlon import Decathlon, decathlon_cases, find_decathlon
from pipelines.data.layouts.files import (
    describe_tree,
    entries,
    folders_to_depth,
    is_nifti,
    shortened,
    stem_of,
)
from pipelines.data.layouts.patients import brats_patient
from transforms.errors import InputError

#: Names of a modality in the challenges and in the Decathlon, and ours.
ALIASES = {
    "flair": "flair", "t2f": "flair",
    "t1": "t1", "t1n": "t1", "t1w": "t1",
    "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce",
    "t2": "t2", "t2w": "t2",
}  # fmt: skip
_TUMOUR_NOTE = "The 'normal' slices come from patients with a tumour."
_FLAIR_NOTE = (
    "On FLAIR plain intensity finds tumours almost perfectly: results are to be read against the "
    "intensity baseline."
)
_DEPTH = 3


@dataclass(frozen=True)
class _Folder:
    path: Path
    files: dict[str, Path]
    mask: Path | None


@register("brats")
class BratsLayout(Layout):
    """One folder per case, with files named after it: ``<case>/<case>_flair.nii.gz``.

    This covers BraTS 2017 to 2020 (with or without HGG and LGG), 2021, 2023 and later
    (``BraTS-GLI-00000-000-t2f.nii.gz``, whose last number is the time point of one patient), and
    anything else named alike. Labels are None: the mask decides slice by slice.
    """

    expects = (
        "one folder per case with files named after it, e.g. BraTS2021_00000/"
        "BraTS2021_00000_flair.nii.gz and ..._seg.nii.gz, or BraTS-GLI-00000-000/"
        "BraTS-GLI-00000-000-t2f.nii.gz, at most three folders down; or the Decathlon's "
        "Task01_BrainTumour with dataset.json and imagesTr"
    )

    def recognise(self, root: Path) -> str | None:
        """Recognise a case folder, or the Decathlon's dataset.json."""
        decathlon = find_decathlon(root)
        if decathlon is not None:
            return f"{decathlon.folder.name}/dataset.json lists brain tumours of the Decathlon"
        example = next((case for level in _levels(root) for case in level), None)
        if example is None:
            return None
        file = next(iter(example.files.values()))
        return f"its folders hold files named after them, such as {example.path.name}/{file.name}"

    def read(self, root: Path, modalities: Modalities) -> Cohort:
        """Read the cases that have all modalities asked for.

        Args:
            root: the folder of the data set.
            modalities: any of flair, t1, t1ce, t2 or their names in the challenges; by default
                ``("flair",)``.

        Raises:
            InputError: if a modality is unknown or no case has all of them.
        """
        channels = canonical_modalities(modalities or ("flair",))
        notes = [_TUMOUR_NOTE, *([_FLAIR_NOTE] if "flair" in channels else [])]
        decathlon = find_decathlon(root)
        if decathlon is None:
            cases = _folder_cases(root, channels, notes)
        else:
            cases = decathlon_cases(decathlon, _channels_of(decathlon, channels), notes)
        unmasked = [case.name for case in cases if case.mask is None]
        if unmasked:
            notes.append(
                f"{counted(len(unmasked), 'case')} without a mask, of no use for training or "
                f"testing: {shortened(unmasked)}."
            )
        return make_cohort(self.name, root, cases, channels, True, notes)


def canonical_modalities(modalities: tuple[str, ...]) -> tuple[str, ...]:
    """Translate modality names of any year into flair, t1, t1ce and t2.

    Raises:
        InputError: if a name is unknown or a modality is named twice.
    """
    for name in modalities:
        if name.lower() not in ALIASES:
            raise InputError(
                f"modalities: expected some of {', '.join(sorted(ALIASES))}; found {name!r}. "
                f"{nearest(name, ALIASES)}"
            )
    names = tuple(ALIASES[name.lower()] for name in modalities)
    if len(set(names)) < len(names):
        raise InputError(
            f"modalities: {', '.join(modalities)} names a modality twice (they are "
            f"{', '.join(names)}). Name each once."
        )
    return names


def case_folders(root: Path) -> list[Path]:
    """The folders that hold files named after them and a modality."""
    return [folder.path for level in _levels(root) for folder in level]


def _levels(root: Path) -> list[list[_Folder]]:
    levels = []
    for folders in folders_to_depth(root, _DEPTH):
        levels.append([case for folder in folders if (case := _case_folder(folder))])
    return levels


def _case_folder(folder: Path) -> _Folder | None:
    files: dict[str, Path] = {}
    masks, others = [], []
    for path in entries(folder):
        if not is_nifti(path) or path.is_dir():
            continue
        part = _part_after(folder.name, stem_of(path))
        if part in ALIASES:
            files.setdefault(ALIASES[part], path)
        elif part == "seg":
            masks.append(path)
        elif "seg" in path.name.lower():
            # BraTS20_Training_355 is distributed with its mask as W39_1998.09.19_Segm.nii.
            others.append(path)
    mask = next(iter(masks or (others if len(others) == 1 else [])), None)
    return _Folder(folder, files, mask) if files else None


def _part_after(case: str, stem: str) -> str:
    if not stem.lower().startswith((f"{case}_".lower(), f"{case}-".lower())):
        return ""
    return stem[len(case) + 1 :].lower()


def _folder_cases(root: Path, channels: tuple[str, ...], notes: list[str]) -> list[Case]:
    folders = [case for level in _levels(root) for case in level]
    lacking = {
        folder.path.name: [name for name in channels if name not in folder.files]
        for folder in folders
        if not set(channels) <= folder.files.keys()
    }
    if len(lacking) == len(folders):
        raise InputError(_no_case_message(root, folders, lacking))
    if lacking:
        listed = shortened(f"{case} ({', '.join(missing)})" for case, missing in lacking.items())
        notes.append(
            f"{counted(len(lacking), 'case')} left out for lack of a modality: {listed}; "
            f"{counted(len(folders) - len(lacking), 'case')} kept."
        )
    return [
        Case(
            name=folder.path.name,
            patient=brats_patient(folder.path.name),
            images=tuple(folder.files[name] for name in channels),
            mask=folder.mask,
        )
        for folder in folders
        if set(channels) <= folder.files.keys()
    ]


def _no_case_message(root: Path, folders: list[_Folder], lacking: dict[str, list[str]]) -> str:
    there = sorted({name for folder in folders for name in folder.files})
    listed = shortened(f"{case} lacks {', '.join(missing)}" for case, missing in lacking.items())
    return (
        f"modalities: no case in {root} has all modalities asked for: {listed}. The cases have "
        f"{', '.join(there)}; found\n{describe_tree(root, depth=1)}\nAsk for modalities that are "
        "there."
    )


def _channels_of(decathlon: Decathlon, channels: tuple[str, ...]) -> tuple[int, ...]:
    indices = {ALIASES.get(name, name): i for name, i in decathlon.channels.items()}
    missing = [name for name in channels if name not in indices]
    if missing:
        first = next((image for image, _ in decathlon.pairs), "the first")
        raise InputError(
            f"modalities: {decathlon.folder / 'dataset.json'} lacks {', '.join(missing)}, "
            f"so every case does, from {first} on; it lists "
            f"{', '.join(indices)}. Ask for these."
        )
    return tuple(indices[name] for name in channels)

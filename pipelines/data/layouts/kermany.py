"""Layout ``kermany``: the chest X-ray and OCT sets of Kermany et al. (2018) as distributed."""

from __future__ import annotations

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
from pipelines.data.layouts.files import (
    describe_tree,
    folders_to_depth,
    stem_of,
    subfolders,
)
from pipelines.data.layouts.patients import kermany_patient
from pipelines.data.layouts.walk import find_images, left_out_notes, list_images
from transforms.errors import InputError

_ANOMALOUS = {"PNEUMONIA", "CNV", "DME", "DRUSEN"}
_SHARPNESS = (
    "In the X-ray set a single sharpness number (minus the mean absolute vertical difference) "
    "separates normal from pneumonia images: AUROC 0.93 among the training images, 0.83 among the "
    "test images. Results are to be read against it."
)


@register("kermany")
class KermanyLayout(Layout):
    """Chest X-ray or OCT2017, one or two folder levels down as the archives unpack.

    The normal training images train, the test images test. Anomalous training images and ``val``
    (16 X-rays, 32 OCT images) are not used. A patient of the test images is left out of training,
    which in OCT2017 happens often. Patients: see `kermany_patient`.
    """

    expects = (
        "train/NORMAL with train/ or test/ PNEUMONIA (chest X-ray) or CNV, DME, DRUSEN (OCT2017), "
        "spelled so, at most two folders down, e.g. chest_xray/train/NORMAL"
    )

    def recognise(self, root: Path) -> str | None:
        """Recognise train/NORMAL beside the distributed names of the anomalous classes."""
        bases = _bases(root)
        if not bases:
            return None
        base = bases[0]
        kind = "chest X-ray" if "PNEUMONIA" in _classes(base) else "OCT"
        where = base.relative_to(root).as_posix()
        return f"it holds the {kind} classes of Kermany et al. in {where}/train"

    def anatomy(self, root: Path) -> str | None:
        """Tell chest X-rays from OCT."""
        return "chest" if "PNEUMONIA" in _classes(_bases(root)[0]) else None

    def read(self, root: Path, modalities: Modalities) -> Cohort:
        """Read the normal training images and all test images.

        Raises:
            InputError: if there are two data sets below `root`, no normal training image is left,
                or modalities are asked for.
        """
        bases = _bases(root)
        if len(bases) > 1:
            found = ", ".join(str(base) for base in bases)
            raise InputError(
                f"dataset_dir: expected one data set, found {len(bases)}: {found}. Give one."
            )
        channels = picture_modalities(self.name, modalities)
        notes: list[str] = []
        test = [
            case
            for name in subfolders(bases[0] / "test")
            if name == "NORMAL" or name in _ANOMALOUS
            for case in _cases(bases[0], "test", name, notes)
        ]
        train = _without_patients_of(test, _cases(bases[0], "train", "NORMAL", notes), notes)
        if not train:
            raise InputError(
                f"dataset_dir: no normal training image in {bases[0] / 'train' / 'NORMAL'} "
                f"{'; '.join(notes)}. Found\n{describe_tree(bases[0])}\nUnpack the archive anew."
            )
        notes += _notes(bases[0], test, [*train, *test])
        return make_cohort(self.name, root, [*train, *test], channels, False, notes)


def _bases(root: Path) -> list[Path]:
    levels = folders_to_depth(root, 2)
    found = ([folder for folder in level if _is_base(folder)] for level in levels)
    return next((bases for bases in found if bases), [])


def _is_base(folder: Path) -> bool:
    return "NORMAL" in subfolders(folder / "train") and bool(_classes(folder) & _ANOMALOUS)


def _classes(base: Path) -> set[str]:
    return {*subfolders(base / "train"), *subfolders(base / "test")}


def _cases(base: Path, split: SplitName, folder: str, notes: list[str]) -> list[Case]:
    listing = list_images(base / split / folder)
    notes += left_out_notes([listing])
    return [
        Case(
            name=stem_of(path),
            patient=kermany_patient(stem_of(path)) or stem_of(path),
            images=(path,),
            label=0 if folder == "NORMAL" else 1,
            split=split,
        )
        for path in listing.images
    ]


def _without_patients_of(test: list[Case], train: list[Case], notes: list[str]) -> list[Case]:
    tested = {case.patient for case in test}
    kept = [case for case in train if case.patient not in tested]
    if len(kept) < len(train):
        shared = {case.patient for case in train} & tested
        notes.append(
            f"{counted(len(train) - len(kept), 'normal training image')} of "
            f"{counted(len(shared), 'patient')} left out, because these patients also have test "
            f"images; {counted(len(kept), 'normal training image')} kept."
        )
    return kept


def _notes(base: Path, test: list[Case], cases: list[Case]) -> list[str]:
    notes = []
    unused = sum(len(find_images(base / "train" / name)) for name in _classes(base) & _ANOMALOUS)
    if unused:
        notes.append(f"{counted(unused, 'anomalous training image')} not used.")
    ignored = len(find_images(base / "val"))
    if ignored:
        notes.append(f"{counted(ignored, 'image')} of val not used.")
    if not test:
        notes.append("There are no test images (test is missing or empty).")
    unnamed = sum(kermany_patient(stem_of(case.images[0])) is None for case in cases)
    if unnamed:
        notes.append(
            f"{counted(unnamed, 'file name')} of another form than the set's: each is taken as a "
            "patient of its own."
        )
    if "PNEUMONIA" in _classes(base):
        notes.append(_SHARPNESS)
    return notes

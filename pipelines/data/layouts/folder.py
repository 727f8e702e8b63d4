"""Layout ``folder``: a user's own images, sorted into train/normal, test/normal, test/anomalous."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from networks.choices import nearest
from pipelines.common import counted
from pipelines.data.cases import Case, Cohort, SplitName
from pipelines.data.layouts.base import Layout, Modalities, make_cohort, register
from pipelines.data.layouts.files import (
    describe_tree,
    is_volume,
    shortened,
    stem_of,
    subfolders,
)
from pipelines.data.layouts.patients import kermany_patient, patients_by_pattern
from pipelines.data.layouts.walk import find_images, find_signals, left_out_notes, list_images
from transforms.errors import InputError

_CLASSES: tuple[tuple[SplitName, str, Literal[0, 1]], ...] = (
    ("train", "normal", 0),
    ("calibration", "normal", 0),
    ("test", "normal", 0),
    ("test", "anomalous", 1),
)
_KNOWN = {
    "train": ("normal", "anomalous"),
    "calibration": ("normal",),
    "test": ("normal", "anomalous", "masks"),
}


@dataclass(frozen=True)
class Image:
    """A file, or a folder of DICOM slices, below the folder of its class."""

    path: Path
    below: Path
    split: SplitName | None
    label: Literal[0, 1]

    @property
    def key(self) -> str:
        """Path below the class folder without suffix, which a mask shares."""
        return self.path.relative_to(self.below).with_name(stem_of(self.path)).as_posix()


@register("folder")
@dataclass(frozen=True)
class FolderLayout(Layout):
    """Pictures, volumes or DICOM series in folders that name split and class.

    The patient of an image is found in this order: by `patient_pattern` in the stem, if given; the
    first folder below the class folder, if there is one; the Kermany rule, if every stem follows
    it (see `kermany_patient`); else the stem itself. A folder that directly holds DICOM files,
    other than the class folder, is one case.

    Attributes:
        patient_pattern: regular expression whose first group (or whole match) in the stem is the
            patient.
    """

    expects = (
        "train/normal, test/normal and test/anomalous, optionally test/masks (file names as in "
        "test/anomalous) and calibration/normal, with PNG, JPEG, TIFF, NIfTI or DICOM files, also "
        "in one folder per patient"
    )
    patient_pattern: str | None = None

    def recognise(self, root: Path) -> str | None:
        """Recognise the folder train/normal, spelled in lower case."""
        if "normal" not in subfolders(root / "train") or find_signals(root / "train"):
            return None
        return "it holds the folder train/normal"

    def read(self, root: Path, modalities: Modalities) -> Cohort:
        """Read the images, their patients and masks.

        Args:
            root: the folder that holds ``train``.
            modalities: names of the channels of each file, by default ``("image",)``.

        Raises:
            InputError: if there are no training images, pictures are mixed with volumes, a folder
                seems misspelt, or no mask fits any image.
        """
        notes = _unknown_folders(root)
        listings = [list_images(root / split / name) for split, name, _ in _CLASSES]
        images = [
            Image(path, listing.root, split, label)
            for (split, _, label), listing in zip(_CLASSES, listings, strict=True)
            for path in listing.images
        ]
        if not any(image.split == "train" for image in images):
            raise InputError(
                f"dataset_dir: {root / 'train' / 'normal'} holds no image. Expected PNG, JPEG, "
                f"TIFF, NIfTI or DICOM files, found\n{describe_tree(root / 'train')}\nPut the "
                "normal training images there."
            )
        volumetric = are_volumes(images)
        masks = _match_masks(root, images, notes)
        patients = patients_of(images, self.patient_pattern)
        cases = [
            Case(
                name=stem_of(image.path),
                patient=patients[image],
                images=(image.path,),
                label=None if volumetric and image in masks else image.label,
                mask=masks.get(image),
                split=image.split,
            )
            for image in images
        ]
        notes += [*_test_notes(images, masks), *left_out_notes(listings)]
        return make_cohort(self.name, root, cases, modalities or ("image",), volumetric, notes)


def patients_of(images: Sequence[Image], pattern: str | None) -> dict[Image, str]:
    """The patient of each image, found as `FolderLayout` says."""
    stems = {image: stem_of(image.path) for image in images}
    if pattern is not None:
        by_stem = patients_by_pattern(pattern, stems.values())
        return {image: by_stem[stem] for image, stem in stems.items()}
    kermany = {image: kermany_patient(stem) for image, stem in stems.items()}
    follows_kermany = all(kermany.values())
    patients = {}
    for image, stem in stems.items():
        parts = image.path.relative_to(image.below).parts
        if len(parts) > 1:
            patients[image] = parts[0]
        else:
            patients[image] = (kermany[image] or stem) if follows_kermany else stem
    return patients


def _unknown_folders(root: Path) -> list[str]:
    notes = []
    for split, known in _KNOWN.items():
        for name, path in subfolders(root / split).items():
            if name in known:
                continue
            guess = nearest(name, known)
            if guess:
                raise InputError(
                    f"dataset_dir: found the folder {path}, expected {', '.join(known)}. {guess} "
                    "Rename the folder or move it elsewhere."
                )
            notes.append(f"The folder {split}/{name} is not used; {split} may hold {known}.")
    unused = find_images(root / "train" / "anomalous")
    if unused:
        notes.append(f"{counted(len(unused), 'anomalous training image')} not used.")
    return notes


def are_volumes(images: Sequence[Image]) -> bool:
    """Whether the images are volumes; they may not be of both kinds."""
    by_kind: dict[bool, Path] = {}
    for image in images:
        by_kind.setdefault(is_volume(image.path) or image.path.is_dir(), image.path)
    if len(by_kind) > 1:
        raise InputError(
            f"dataset_dir: expected either pictures or volumes, found both, e.g. {by_kind[False]} "
            f"and {by_kind[True]}. Keep them in two data sets."
        )
    return next(iter(by_kind))


def _match_masks(root: Path, images: list[Image], notes: list[str]) -> dict[Image, Path]:
    below = root / "test" / "masks"
    masks = {Image(path, below, "test", 1).key: path for path in find_images(below)}
    anomalous = [image for image in images if image.label == 1]
    image_stems = Counter(stem_of(image.path) for image in anomalous)
    mask_stems = Counter(stem_of(path) for path in masks.values())
    by_stem = {stem_of(path): path for path in masks.values()}
    found = {}
    for image in anomalous:
        stem = stem_of(image.path)
        if image.key in masks:
            found[image] = masks[image.key]
        elif image_stems[stem] == mask_stems[stem] == 1:
            found[image] = by_stem[stem]
    unused = sorted(set(masks.values()) - set(found.values()))
    if unused and not found:
        example = anomalous[0].path.name if anomalous else "no image at all"
        raise InputError(
            f"dataset_dir: no mask fits an image. Expected in {below} files named like those of "
            f"test/anomalous ({example}), found {shortened(path.name for path in unused)}. Rename "
            "the masks."
        )
    if unused:
        names = shortened(path.relative_to(below).as_posix() for path in unused)
        notes.append(
            f"{counted(len(unused), 'mask')} without an anomalous image not used: {names}."
        )
    return found


def _test_notes(images: list[Image], masks: dict[Image, Path]) -> list[str]:
    labels = [image.label for image in images if image.split == "test"]
    notes = [
        f"There are no {name} test images (test/{name} is missing or empty)."
        for name, label in (("normal", 0), ("anomalous", 1))
        if label not in labels
    ]
    unmasked = labels.count(1) - len(masks)
    if masks and unmasked:
        notes.append(f"{counted(unmasked, 'anomalous test image')} without a mask.")
    return notes

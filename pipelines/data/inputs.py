"""What `--input` names: the files of one image, or a folder of many."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.data.cases import Case
from pipelines.data.layouts import read_cohort
from pipelines.data.layouts.brats import ALIASES
from pipelines.data.layouts.files import find_images, stem_of
from transforms.dicom import holds_dicom, list_series
from transforms.errors import InputError

logger = logging.getLogger(__name__)


def find_inputs(
    model: Mapping[str, Any],
    path: str | None,
    series_uid: str | None = None,
    all_series: bool = False,
) -> tuple[Case, ...]:
    """Finds the images to be scored.

    Args:
        model: content of the model file; says how many modalities an image has and whether
            images are volumes.
        path: a file; a folder that holds the slices of a DICOM series; or a folder of these. For
            a model of several modalities: a 4-D NIfTI file with these channels, a folder whose
            files are named after it and the modalities (``case1/case1_flair.nii.gz``), or a
            folder of such folders.
        series_uid: the DICOM series to score where a folder holds several.
        all_series: whether every readable DICOM series below the folder is a case of its own.

    Returns:
        The cases, without labels; names are unique and taken from the files' names.

    Raises:
        InputError: when nothing is found there.
    """
    if not path:
        raise InputError("input: name the image or the folder to score with --input <path>.")
    root = Path(path).expanduser()
    if not root.exists():
        raise InputError(f"input: {root} does not exist. Check the path.")
    if all_series:
        return _all_series(root)
    if root.is_file() or series_uid or (model["volumetric"] and holds_dicom(root)):
        name = _safe(stem_of(root.absolute()))
        return (Case(name, name, (root,), series_uid=series_uid),)
    modalities = tuple(model["modalities"])
    found = _by_modality(root, modalities)
    if found is None and len(modalities) > 1:
        raise InputError(
            f"input: the model reads {', '.join(modalities)}, but no folder in {root} holds files "
            f"named after it and these, such as case1/case1_{modalities[0]}.nii.gz. Arrange the "
            "files so, or give one 4-D NIfTI file with these channels."
        )
    cases = found or _single_images(root)
    if not cases:
        raise InputError(
            f"input: {root} holds no image. Expected NIfTI, NRRD, MetaImage, DICOM, PNG, JPEG or "
            "TIFF files."
        )
    return cases


def _all_series(root: Path) -> tuple[Case, ...]:
    """Every series that can be read; the others are told, and left out."""
    found = list_series(root, recursive=True)
    for info in found:
        if info.problem:
            logger.warning("Left out: series %s. %s", info, info.problem)
    readable = [info for info in found if not info.problem]
    if not readable:
        raise InputError(f"input: {root} holds no DICOM series that can be read.")
    names = [f"{_safe(root.absolute().name)}_{info.number or 0:03d}" for info in readable]
    unique = _unique(names, [info.path for info in readable])
    return tuple(
        Case(name, name, (info.path,), series_uid=info.uid or None)
        for name, info in zip(unique, readable, strict=True)
    )


def _by_modality(root: Path, modalities: tuple[str, ...]) -> tuple[Case, ...] | None:
    """Folders with a file per modality, as BraTS has them; None where there are none."""
    if not all(name.lower() in ALIASES for name in modalities):
        return None
    try:
        cohort = read_cohort(root, "brats", modalities)
    except InputError:
        return None
    for note in cohort.notes:
        if "left out" in note:
            logger.warning("%s", note)
    return tuple(replace(case, mask=None, label=None) for case in cohort.cases)


def _single_images(root: Path) -> tuple[Case, ...]:
    paths = find_images(root)
    names = _unique([_safe(stem_of(path.relative_to(root))) for path in paths], paths)
    return tuple(Case(name, name, (path,)) for name, path in zip(names, paths, strict=True))


def _unique(names: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Adds what tells files of one name apart: their folder, then their suffix, then a number."""
    told = list(names)
    for further in (
        [path.parent.name for path in paths],
        [path.suffix.lstrip(".") for path in paths],
    ):
        counts = Counter(told)
        told = [
            f"{_safe(more)}_{name}" if counts[name] > 1 else name
            for name, more in zip(told, further, strict=True)
        ]
    seen: Counter[str] = Counter()
    for position, name in enumerate(told):
        seen[name] += 1
        if seen[name] > 1:
            told[position] = f"{name}_{seen[name]}"
    return told


def _safe(name: str) -> str:
    """A name without what file systems, spreadsheets or shells stumble over."""
    kept = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).strip("._")
    return kept or "image"

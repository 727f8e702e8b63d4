"""What `--input` names: the files of one image, or a folder of many."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.data.cases import Case, name_problem
from pipelines.data.layouts import read_cohort
from pipelines.data.layouts.brats import ALIASES, case_folders
from pipelines.data.layouts.files import printable, special_kind, stem_of
from pipelines.data.layouts.walk import LeftOut, Listing, list_images, list_signals
from pipelines.data.signals import reads_signals
from transforms.dicom import list_series
from transforms.errors import InputError
from transforms.signals import SIGNAL_SUFFIXES, is_signal, signal_stem

logger = logging.getLogger(__name__)


MOST_TOLD = 20
"""Things left out that a message names one by one."""


@dataclass(frozen=True)
class InputFiles:
    """What there is to score.

    Attributes:
        cases: the images, without labels; names are unique and taken from the files' names.
        left_out: everything else that was found there.
    """

    cases: tuple[Case, ...]
    left_out: tuple[LeftOut, ...] = ()


def find_inputs(
    model: Mapping[str, Any],
    path: str | None,
    series_uid: str | None = None,
    all_series: bool = False,
) -> InputFiles:
    """Finds the images to be scored.

    Args:
        model: content of the model file; says how many modalities an image has and whether
            images are volumes.
        path: a file; or a folder, which is sorted by file: DICOM slices that lie in one folder are
            one volume. For a model of several modalities: a 4-D NIfTI file with these channels, a
            folder whose files are named after it and the modalities
            (``case1/case1_flair.nii.gz``), or a folder of such folders.
        series_uid: the DICOM series to score where a folder holds several.
        all_series: whether every readable DICOM series below the folder is a case of its own.

    Raises:
        InputError: when nothing is found there.
    """
    if not path:
        raise InputError("input: name the image or the folder to score with --input <path>.")
    root = Path(path).expanduser()
    _require_usable(root)
    if reads_signals(model):
        found = _signals(root)
    elif all_series:
        found = _all_series(root)
    elif root.is_file() or series_uid:
        name = _safe(stem_of(root.absolute()))
        found = InputFiles((Case(name, name, (root,), series_uid=series_uid),))
    else:
        found = _sorted(root, model)
    folder = root if root.is_dir() else root.parent
    long = [LeftOut.below(folder, one.images[0], name_problem(one.name)) for one in found.cases]
    found = InputFiles(
        tuple(one for one in found.cases if not name_problem(one.name)),
        (*found.left_out, *(one for one in long if one.reason)),
    )
    if not found.cases:
        raise InputError(f"input: {root} holds no {_expected(model)}.{_told(found.left_out)}")
    if found.left_out:
        logger.warning("%s", _told(found.left_out).strip())
    return found


def _expected(model: Mapping[str, Any]) -> str:
    if reads_signals(model):
        return f"signal. Expected {', '.join(SIGNAL_SUFFIXES)} files"
    return "image. Expected NIfTI, NRRD, MetaImage, DICOM, PNG, JPEG or TIFF files"


def _require_usable(root: Path) -> None:
    """Refuses what is neither a file nor a folder, or has a name that no result could have."""
    shown = printable(str(root))
    if shown != str(root):
        raise InputError(f"input: the name of {shown} is no UTF-8. Rename it.")
    try:
        kind = special_kind(root.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(f"input: {shown} does not exist. Check the path.") from error
    except OSError as error:
        raise InputError(
            f"input: {shown} cannot be reached ({error.strerror}). Check the path."
        ) from error
    if kind:
        raise InputError(f"input: {shown}: expected a file or a folder, found {kind}")


def _told(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return ""
    listed = "".join(f"\n  {one}" for one in left_out[:MOST_TOLD])
    more = len(left_out) - MOST_TOLD
    rest = f"\n  ... and {more} more" if more > 0 else ""
    return f" Left out, {len(left_out)}:{listed}{rest}"


def _signals(root: Path) -> InputFiles:
    """The signals of a folder, or the one that was named."""
    listing = list_signals(root) if root.is_dir() else Listing(root.parent, [root])
    if root.is_file() and not is_signal(root):
        raise InputError(
            f"input: the model reads signals ({', '.join(SIGNAL_SUFFIXES)}), found {root}."
        )
    paths = listing.images
    names = _unique([_safe(signal_stem(path)) for path in paths], paths)
    cases = tuple(Case(name, name, (path,)) for name, path in zip(names, paths, strict=True))
    return InputFiles(cases, tuple(listing.left_out))


def _all_series(root: Path) -> InputFiles:
    """Every series that can be read, and what is left out beside them."""
    found = list_series(root, recursive=True)
    left = [
        LeftOut.below(root, info.path, f"series {info}: {info.problem}")
        for info in found
        if info.problem
    ]
    listing = list_images(root, series=True)
    known = {path for info in found for file in info.files for path in (file, file.parent)}
    left += [
        LeftOut.below(root, path, "no DICOM file; all_series scores nothing else.")
        for path in listing.images
        if path not in known
    ]
    left += listing.left_out
    readable = [info for info in found if not info.problem]
    if not readable:
        raise InputError(f"input: {root} holds no DICOM series that can be read.{_told(left)}")
    names = [f"{_safe(root.absolute().name)}_{info.number or 0:03d}" for info in readable]
    unique = _unique(names, [info.path for info in readable])
    cases = tuple(
        Case(name, name, (info.path,), series_uid=info.uid or None)
        for name, info in zip(unique, readable, strict=True)
    )
    return InputFiles(cases, tuple(left))


def _sorted(root: Path, model: Mapping[str, Any]) -> InputFiles:
    """The images of a folder: those named after a modality, and the others one by one."""
    modalities = tuple(model["modalities"])
    listing = list_images(root, series=bool(model["volumetric"]))
    named, others, left = _by_modality(root, modalities, listing.images)
    if len(modalities) > 1:
        if not named:
            raise InputError(
                f"input: the model reads {', '.join(modalities)}, but no folder in {root} holds "
                f"files named after it and these, such as case1/case1_{modalities[0]}.nii.gz. "
                "Arrange the files so, or give one 4-D NIfTI file with these channels."
            )
        left += [LeftOut.below(root, path, _not_named(modalities)) for path in others]
        others = []
    names = [_safe(stem_of(path.absolute())) for path in others]
    cases = [*named, *(Case(name, name, (p,)) for name, p in zip(names, others, strict=True))]
    unique = _unique([case.name for case in cases], [case.images[0] for case in cases])
    return InputFiles(
        tuple(
            case if case.name == name else replace(case, name=name, patient=name)
            for case, name in zip(cases, unique, strict=True)
        ),
        (*left, *listing.left_out),
    )


def _by_modality(
    root: Path, modalities: tuple[str, ...], images: list[Path]
) -> tuple[tuple[Case, ...], list[Path], list[LeftOut]]:
    """Takes the folders that have a file per modality, as BraTS has them.

    Returns:
        Their cases; the images elsewhere; and what lies beside the files that the model reads.
    """
    if not all(name.lower() in ALIASES for name in modalities):
        return (), images, []
    folders = case_folders(root)
    cases: tuple[Case, ...] = ()
    try:
        cohort = read_cohort(root, "brats", modalities)
        cases = tuple(replace(case, mask=None, label=None) for case in cohort.cases)
        folders = folders or [root]  # the Decathlon's, which has further volumes and masks
    except InputError:
        pass
    taken = {path for case in cases for path in case.images}
    left = [path for path in images if path not in taken and _within(path, folders)]
    others = [path for path in images if not _within(path, folders)]
    return cases, others, [LeftOut.below(root, path, _not_named(modalities)) for path in left]


def _within(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _not_named(modalities: Sequence[str]) -> str:
    return (
        f"the model reads {', '.join(modalities)}, in files named after their folder and these, "
        f"such as case1/case1_{modalities[0]}.nii.gz."
    )


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

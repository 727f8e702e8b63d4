"""What every layout is made of: the interface, the register, and the making of a cohort."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, TypeVar

from pipelines.data.cases import Case, Cohort, name_problem
from pipelines.data.layouts.files import suffix_of
from transforms.errors import InputError

Modalities = tuple[str, ...] | None


class Layout(ABC):
    """One way in which a data set lies on the disk.

    A layout is a class without state; when it has options, it is a frozen dataclass and its
    fields are the options that `pipelines.data.layouts.read_cohort` accepts by name.

    Attributes:
        name: the name it is registered under; `register` sets it.
        expects: what it expects to find, in one sentence, for error messages.
        automatic: whether it is among those that a folder is tried for.
    """

    name: ClassVar[str]
    expects: ClassVar[str]
    automatic: ClassVar[bool] = True

    @abstractmethod
    def recognise(self, root: Path) -> str | None:
        """Tell why `root` has this layout, in one sentence, or return None if it has not."""

    def anatomy(self, root: Path) -> str | None:
        """Name what the images show, such as ``chest`` for chest radiographs; None if unknown.

        Args:
            root: a folder (or file) that `recognise` accepted.
        """
        return None

    @abstractmethod
    def read(self, root: Path, modalities: Modalities) -> Cohort:
        """Read the cases below `root`.

        Args:
            root: a folder (or file) that `recognise` accepted.
            modalities: the channels asked for, or None for the layout's default.

        Raises:
            InputError: if the files are not what the layout expects.
        """


LAYOUTS: dict[str, type[Layout]] = {}

L = TypeVar("L", bound=Layout)


def register(name: str) -> Callable[[type[L]], type[L]]:
    """Return a class decorator that adds a layout under `name`.

    Raises:
        ValueError: if the name is taken.
    """

    def add(layout: type[L]) -> type[L]:
        if name == "auto" or name in LAYOUTS:
            raise ValueError(f"layout name {name!r} is taken; taken are auto, {', '.join(LAYOUTS)}")
        layout.name = name
        LAYOUTS[name] = layout
        return layout

    return add


def make_cohort(
    layout: str,
    root: Path,
    cases: Iterable[Case],
    modalities: tuple[str, ...],
    volumetric: bool,
    notes: Sequence[str] = (),
    signals: bool = False,
) -> Cohort:
    """Make a cohort: unique case names, sorted cases, counts.

    A case keeps its provisional name (as a rule the file's stem) where no other case has it, also
    on file systems that ignore case; otherwise the folders between `root` and the file are put
    before it.

    Raises:
        InputError: if there is no case at all.
    """
    unique = sorted(_with_unique_names(list(cases), root), key=lambda case: case.name)
    named = [case for case in unique if not name_problem(case.name)]
    problems = {one.name: name_problem(one.name) for one in unique}
    long = [f"Left out: {name}: {problem}" for name, problem in problems.items() if problem]
    if not named:
        raise InputError(f"dataset_dir: layout {layout!r} found no case at all in {root}.")
    return Cohort(
        layout=layout,
        root=root,
        cases=tuple(named),
        modalities=modalities,
        volumetric=volumetric,
        notes=(*notes, *long),
        counts=count_cases(named),
        signals=signals,
    )


def count_cases(cases: Sequence[Case]) -> dict[str, int]:
    """Count cases and patients, together and per split and class.

    The keys are ``"cases"``, ``"patients"``, ``"train/normal cases"``, ``"train/normal
    patients"`` and so on. Cases that no split was fixed for stand under ``undivided``; the classes
    are ``normal``, ``anomalous``, ``masked`` (decided by the mask) and ``unlabelled``.
    """
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(f"{case.split or 'undivided'}/{class_of(case)}", []).append(case)
    counts = {"cases": len(cases), "patients": len({case.patient for case in cases})}
    for key, members in sorted(groups.items()):
        counts[f"{key} cases"] = len(members)
        counts[f"{key} patients"] = len({case.patient for case in members})
    return counts


def class_of(case: Case) -> str:
    """Name the class of a case: normal, anomalous, masked (the mask decides) or unlabelled."""
    if case.label is not None:
        return "anomalous" if case.label else "normal"
    return "unlabelled" if case.mask is None else "masked"


def picture_modalities(layout: str, modalities: Modalities) -> tuple[str, ...]:
    """Check the modalities asked of a data set of pictures, which has only ``image``."""
    if modalities not in (None, ("image",)):
        raise InputError(
            f"modalities: layout {layout!r} holds pictures, which have the one modality 'image'; "
            f"found {', '.join(modalities or ())}. Leave modalities out."
        )
    return ("image",)


def _with_unique_names(cases: list[Case], root: Path) -> list[Case]:
    named = [replace(case, name=_file_name(case.name)) for case in cases]
    for longer in (_trail, _trail_with_suffix):
        clashes = _clashes(named)
        named = [
            replace(case, name=longer(case, root)) if case.name.casefold() in clashes else case
            for case in named
        ]
    taken = Counter(case.name.casefold() for case in named)
    seen: Counter[str] = Counter()
    unique = []
    for case in sorted(named, key=lambda case: (case.name, [str(path) for path in case.images])):
        key = case.name.casefold()
        name = case.name
        if taken[key] > 1:
            seen[key] += 1
            name = f"{case.name}_{seen[key]}"
        unique.append(replace(case, name=name))
    return unique


def _clashes(cases: Sequence[Case]) -> set[str]:
    counts = Counter(case.name.casefold() for case in cases)
    return {name for name, count in counts.items() if count > 1}


def _trail(case: Case, root: Path) -> str:
    path = case.images[0]
    # Files elsewhere lend only their last folders: a name must not carry a machine's paths.
    parts = path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-3:]
    suffix = suffix_of(path)
    trail = "_".join(parts)
    return _file_name(trail[: len(trail) - len(suffix)])


def _trail_with_suffix(case: Case, root: Path) -> str:
    return _file_name(_trail(case, root) + suffix_of(case.images[0]).replace(".", "_"))


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.\-]+", "_", text).strip(".") or "case"

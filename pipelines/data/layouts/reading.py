"""Data layouts: how public data sets and users' own folders lie on the disk.

`read_cohort` reads any of them into a `pipelines.data.Cohort`. Each layout is one file of this
folder, named in the import below; CONTRIBUTING.md shows one. One in another package registers when
that package is imported. From then on it can be named, and ``auto`` tries it as well. Layouts look
at names and tables only: no image is opened.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from pathlib import Path

from networks.choices import nearest
from pipelines.data.cases import Cohort
from pipelines.data.layouts import (  # noqa: F401
    brats,
    case_list,
    folder,
    isic2018,
    kermany,
    normals,
    signals,
)  # noqa: F401
from pipelines.data.layouts.base import LAYOUTS, Layout, Modalities
from pipelines.data.layouts.files import describe_tree
from pipelines.data.layouts.walk import find_images
from transforms.errors import InputError
from transforms.signals import is_signal


def read_cohort(
    dataset_dir: str | Path,
    layout: str = "auto",
    modalities: str | Sequence[str] | None = None,
    **options: object,
) -> Cohort:
    """Read a data set.

    Args:
        dataset_dir: the folder of the data set, or a CSV file of layout ``list``.
        layout: name of the layout, or ``auto`` to have it recognised.
        modalities: the channels to read, as a sequence or as text such as ``"flair,t2"``; None
            takes the layout's default.
        options: options of the layout, such as `patient_pattern` of ``folder``; None means that an
            option is not given.

    Returns:
        The cohort; its `reason` says why the layout was taken, its `notes` what was left out.

    Raises:
        InputError: if the folder is missing, has no layout or several, or holds bad data.
    """
    root = _existing(dataset_dir)
    channels = parse_modalities(modalities)
    given = {name: value for name, value in options.items() if value is not None}
    if layout == "auto":
        chosen, reason = _recognise(root)
    else:
        chosen, reason = _named(layout, root)
    cohort = _with_options(LAYOUTS[chosen], given).read(root, channels)
    return dataclasses.replace(cohort, reason=reason)


def is_plain_folder(dataset_dir: str | Path) -> bool:
    """Whether images lie directly in a folder, and no layout says what they are."""
    root = Path(dataset_dir).expanduser()
    if not root.is_dir() or any(one().recognise(root) for one in LAYOUTS.values() if one.automatic):
        return False
    images = find_images(root)
    return bool(images) and all(path.parent == root for path in images)


def holds_signals(dataset_dir: str | Path | None, layout: str = "auto") -> bool:
    """Whether a data set is one of signals; what is wrong with it is for `read_cohort` to say."""
    root = Path(dataset_dir or ".").expanduser()
    if layout != "auto" or not dataset_dir or not root.exists():
        return layout == "signals"
    return LAYOUTS["signals"]().recognise(root) is not None


def find_anatomy(dataset_dir: str | Path | None, layout: str = "auto") -> str | None:
    """Tell what a data set shows, such as ``chest``; None where its layout does not know.

    What is wrong with the folder is for `read_cohort` to say: a network is defined without it.

    Args:
        dataset_dir: see `read_cohort`; None for no data set.
        layout: see `read_cohort`.
    """
    root = Path(dataset_dir or ".").expanduser()
    if not dataset_dir or not root.exists():
        return None
    named = [layout] if layout in LAYOUTS else [n for n, one in LAYOUTS.items() if one.automatic]
    fitting = [one for one in (LAYOUTS[name]() for name in named) if one.recognise(root)]
    return fitting[0].anatomy(root) if len(fitting) == 1 else None


def _existing(dataset_dir: str | Path) -> Path:
    root = Path(dataset_dir).expanduser()
    if root.is_dir() or (root.is_file() and is_signal(root)):
        return root
    if root.is_file():
        raise InputError(
            f"dataset_dir: expected a folder or a .csv file or another signal, found the file "
            f"{root}. Give the folder that holds the data set."
        )
    parent = next(path for path in root.absolute().parents if path.is_dir())
    raise InputError(
        f"dataset_dir: {root} does not exist; the nearest folder that does is "
        f"{parent}, where there is\n{describe_tree(parent, depth=1)}\nMend the path."
    )


def parse_modalities(modalities: str | Sequence[str] | None) -> Modalities:
    """The names of the channels asked for; None where the layout is to choose."""
    if modalities is None:
        return None
    parts = modalities.split(",") if isinstance(modalities, str) else modalities
    names = tuple(str(part).strip() for part in parts)
    if not names or not all(names) or len(set(names)) < len(names):
        raise InputError(
            f"modalities: expected distinct names such as 'flair,t2', found {modalities!r}. Mend "
            "the list, or leave it out for the layout's default."
        )
    return names


def _recognise(root: Path) -> tuple[str, str]:
    reasons = {
        name: reason
        for name, layout in LAYOUTS.items()
        if layout.automatic and (reason := layout().recognise(root))
    }
    if len(reasons) == 1:
        return next(iter(reasons.items()))
    if not reasons:
        raise InputError(
            f"dataset_dir: no layout fits {root}, where there is\n{describe_tree(root)}\n"
            f"Expected one of\n{_expectations(LAYOUTS)}\nArrange the files like one of these, or "
            "list them in a cases.csv."
        )
    found = "\n".join(f"  {name}: {reason}" for name, reason in reasons.items())
    raise InputError(
        f"layout: several layouts fit {root}:\n{found}\nThere is\n{describe_tree(root)}\n"
        f"They expect\n{_expectations(reasons)}\nName the one to use, e.g. layout={min(reasons)!r}."
    )


def _named(layout: str, root: Path) -> tuple[str, str]:
    if layout not in LAYOUTS:
        known = ["auto", *LAYOUTS]
        raise InputError(
            f"layout: expected one of {', '.join(known)}; found {layout!r}. "
            f"{nearest(layout, known)}"
        )
    reason = LAYOUTS[layout]().recognise(root)
    if reason is None:
        raise InputError(
            f"dataset_dir: {root} does not have the layout {layout!r}. Expected\n"
            f"{_expectations([layout])}\nFound\n{describe_tree(root)}\n"
            "Give the folder that holds these, or another layout."
        )
    return layout, reason


def _with_options(layout: type[Layout], options: dict[str, object]) -> Layout:
    known: list[str] = []
    if is_dataclass(layout):
        known = [item.name for item in dataclasses.fields(layout)]
    for name in options:
        if name not in known:
            raise InputError(
                f"{name}: layout {layout.name!r} has no such option; it has "
                f"{', '.join(known) or 'none'}. {nearest(name, known)}"
            )
    return layout(**options)


def _expectations(names: Iterable[str]) -> str:
    return "\n".join(f"  {name}: {LAYOUTS[name].expects}" for name in names)

"""Layout ``list``: a CSV table of the user's that names files, patients and labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from networks.choices import nearest
from pipelines.common import counted
from pipelines.data.cases import Case, Cohort, SplitName
from pipelines.data.layouts.base import Layout, Modalities, make_cohort, register
from pipelines.data.layouts.files import is_image, is_volume, stem_of
from transforms.errors import InputError

_COLUMNS = ("path", "patient", "label", "mask", "split", "region")
_REQUIRED = ("path", "patient")
_LABELS = {"normal": 0, "0": 0, "anomalous": 1, "1": 1, "": None}
_SPLITS = ("train", "calibration", "test", "")
_MAX_PROBLEMS = 20


@dataclass
class _Table:
    folder: Path
    cases: list[Case] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    lines: dict[tuple[Path, ...], int] = field(default_factory=dict)


@register("list")
class ListLayout(Layout):
    """A table ``path,patient,label,mask,split,region`` with a header.

    Paths are relative to the table's folder; a path may be a folder that holds a DICOM series.
    Several files, one per modality, stand in `path` with ``;`` between them. `label` is normal,
    anomalous, 0, 1 or empty; `mask`, `split` (train, calibration, test) and `region`, a mask of
    where synthetic anomalies may lie, may be empty. The columns from label on may be missing,
    other columns are ignored. For a volume with a mask the mask decides slice by slice, unless the
    row says normal.
    """

    expects = (
        "a table cases.csv (or a .csv file given as dataset_dir) with the columns path, patient "
        "and, as needed, label, mask, split, region"
    )

    def recognise(self, root: Path) -> str | None:
        """Recognise a CSV file, or a folder with cases.csv."""
        table = _table_path(root)
        return f"{table.name} lists its cases" if table else None

    def read(self, root: Path, modalities: Modalities) -> Cohort:
        """Read the table.

        Args:
            root: the CSV file, or the folder that holds cases.csv.
            modalities: names of the channels: one per file, or any number for single files that
                hold several channels; by default ``("image",)`` or ``("image_1", "image_2", ...)``.

        Raises:
            InputError: if the header or any row is wrong, naming all lines at once.
        """
        path = _table_path(root) or root
        table = _Table(path.parent)
        for line, row in _rows(path):
            _read_row(table, line, row)
        if not (table.cases or table.problems):
            raise InputError(f"{path}: expected a row for each case, found only the header.")
        channels = _channels(table, modalities)
        volumetric = _volumetric(table)
        if table.problems:
            raise InputError(_problem_message(path, table.problems))
        unlabelled = sum(case.label is None and case.mask is None for case in table.cases)
        notes = (
            [f"{counted(unlabelled, 'case')} with neither label nor mask."] if unlabelled else []
        )
        return make_cohort(self.name, table.folder, table.cases, channels, volumetric, notes)


def names_cases(path: Path) -> bool:
    """Whether a CSV file seems to list cases, rather than to hold a signal."""
    if path.suffix.lower() != ".csv":
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = [name.strip().lower() for name in file.readline().split(",")]
    own = [name for name in _COLUMNS if name != "label"]  # which a signal may have too
    return any(name in own or nearest(name, own) for name in header)


def _table_path(root: Path) -> Path | None:
    table = root / "cases.csv" if root.is_dir() else root
    usable = table.suffix.lower() == ".csv" and table.is_file()
    return table if usable and (root.is_dir() or names_cases(table)) else None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip().lower() for name in next(reader, [])]
            _check_header(path, header)
            for values in reader:
                if any(value.strip() for value in values):
                    row = dict(zip(header, (value.strip() for value in values), strict=False))
                    excess = {"excess": "; ".join(values[len(header) :])}
                    yield reader.line_num, {**row, **(excess if len(values) > len(header) else {})}
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: expected a CSV table in UTF-8, found {error}. Save it as such."
        ) from error


def _check_header(path: Path, header: list[str]) -> None:
    missing = [name for name in _REQUIRED if name not in header]
    absent = [name for name in _COLUMNS if name not in header]
    misspelt = [name for name in header if name not in _COLUMNS and nearest(name, absent)]
    if missing or misspelt or len(set(header)) < len(header):
        guess = "".join(f" For {name!r}: {nearest(name, absent)}" for name in misspelt)
        raise InputError(
            f"{path}: expected a header with the columns {', '.join(_COLUMNS)} (comma between "
            f"them; those from label on may be missing), found {', '.join(header) or 'nothing'}."
            f"{guess} Mend the first line."
        )


def _read_row(table: _Table, line: int, row: dict[str, str]) -> None:
    parts = [part.strip() for part in row.get("path", "").split(";")]
    images = tuple(table.folder / part for part in parts if part)
    mask, region = (table.folder / row[n] if row.get(n) else None for n in ("mask", "region"))
    label, split = row.get("label", "").lower(), row.get("split", "").lower()
    problems = _row_problems(row, images, (mask, region), label, split)
    if not problems and images in table.lines:
        problems.append(f"{row['path']} stands already in line {table.lines[images]}")
    if problems:
        table.problems.append(f"line {line}: {'; '.join(problems)}")
        return
    table.lines[images] = line
    sliced = mask is not None and _is_volume(images[0]) and label not in ("normal", "0")
    table.cases.append(
        Case(
            name=stem_of(images[0]),
            patient=row["patient"],
            images=images,
            label=None if sliced else _LABELS[label],
            mask=mask,
            split=cast(SplitName, split) if split else None,
            region=region,
        )
    )


def _row_problems(
    row: dict[str, str],
    images: tuple[Path, ...],
    masks: tuple[Path | None, Path | None],
    label: str,
    split: str,
) -> list[str]:
    problems = [f"more values than columns ({row['excess']})"] if "excess" in row else []
    if not images:
        problems.append("path is empty")
    for path in (*images, *filter(None, masks)):
        if not path.exists():
            problems.append(f"{path} does not exist")
        elif path.is_file() and not is_image(path):
            problems.append(f"{path} is no PNG, JPEG, TIFF, NIfTI or DICOM file")
    if not row.get("patient"):
        problems.append("patient is empty")
    if label not in _LABELS:
        problems.append(f"label is {label!r}, expected normal, anomalous, 0, 1 or nothing")
    if split not in _SPLITS:
        problems.append(f"split is {split!r}, expected train, calibration, test or nothing")
    sliced = masks[0] is not None and bool(images) and _is_volume(images[0])
    if split in ("train", "calibration") and not sliced and _LABELS.get(label) != 0:
        problems.append(f"a case in {split} must be labelled normal, or be a volume with a mask")
    return problems


def _is_volume(path: Path) -> bool:
    return is_volume(path) or path.is_dir()


def _channels(table: _Table, modalities: Modalities) -> tuple[str, ...]:
    if not table.cases:
        return modalities or ("image",)
    count = len(table.cases[0].images)
    if modalities is not None and count > 1 and count != len(modalities):
        raise InputError(
            f"modalities: {', '.join(modalities)} asked for, but the rows name {count} files each. "
            "Name as many modalities as files, in their order."
        )
    for case in table.cases:
        if len(case.images) != count:
            table.problems.append(
                f"line {table.lines[case.images]}: {counted(len(case.images), 'file')}, expected "
                f"{count} as in line {table.lines[table.cases[0].images]}"
            )
    if modalities is not None:
        return modalities
    return ("image",) if count == 1 else tuple(f"image_{i + 1}" for i in range(count))


def _volumetric(table: _Table) -> bool:
    volumetric = bool(table.cases) and _is_volume(table.cases[0].images[0])
    for case in table.cases:
        if any(_is_volume(path) != volumetric for path in case.images):
            table.problems.append(
                f"line {table.lines[case.images]}: mixes pictures with volumes; keep one kind"
            )
    return volumetric


def _problem_message(path: Path, problems: list[str]) -> str:
    listed = "\n".join(f"  {problem}" for problem in problems[:_MAX_PROBLEMS])
    more = len(problems) - _MAX_PROBLEMS
    rest = f"\n  ... and {more} more" if more > 0 else ""
    return f"{path}: {counted(len(problems), 'problem')} in the table:\n{listed}{rest}\nMend these."

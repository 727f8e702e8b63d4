"""Arranges the public X-ray and BraTS files for the experiments, as layout ``list``.

    python -m benchmarks.arrange xray --source <folder> --output <folder> --seed 0
    python -m benchmarks.arrange brats --source <folder> --output <folder> --modalities t2

X-ray: ``<source>`` holds ``train_normal`` (normal images of the Kermany set) and ``val_pneumonia``.
A tenth of the normal patients is held out for testing; of the pneumonia images, sorted by name,
every other one is for development and the rest stays untouched by any choice. BraTS: the patients
sorted by name, even against odd. Only a table of paths is written, no image is copied.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from pipelines.common import write_csv
from pipelines.data import kermany_patient
from transforms.errors import InputError

COLUMNS = ("path", "patient", "label", "mask", "split")
HELD_OUT = 0.1
Row = tuple[str, str, str, str, str]


def xray_rows(source: Path, seed: int, half: str) -> list[Row]:
    """Rows for the X-ray experiment.

    Args:
        source: folder with ``train_normal`` and ``val_pneumonia``.
        seed: chooses the normal patients that are held out.
        half: which pneumonia images to test on: ``development``, ``untouched`` or ``all``.

    Raises:
        InputError: when a folder is missing or empty.
    """
    normals = _pictures(source / "train_normal")
    anomalous = _pictures(source / "val_pneumonia")
    start, step = {"development": (0, 2), "untouched": (1, 2), "all": (0, 1)}[half]
    patient = {path: kermany_patient(path.stem) or path.stem for path in normals}
    patients = sorted(set(patient.values()))
    held_out = set(random.Random(seed).sample(patients, round(HELD_OUT * len(patients))))
    rows: list[Row] = []
    for path in normals:
        split = "test" if patient[path] in held_out else "train"
        rows.append((str(path), patient[path], "normal", "", split))
    for path in anomalous[start::step]:
        rows.append((str(path), path.stem, "anomalous", "", "test"))
    return rows


def brats_rows(source: Path, modalities: Sequence[str], train_on: str) -> list[Row]:
    """Rows for the BraTS experiment.

    Args:
        source: folder with one folder per case.
        modalities: file endings such as ``flair`` and ``t2``.
        train_on: ``even`` or ``odd``, by the patients' rank in the sorted names.

    Raises:
        InputError: when a file is missing.
    """
    cases = sorted(path for path in source.iterdir() if path.is_dir())
    if not cases:
        raise InputError(f"--source: expected case folders in {source}, found none.")
    rows: list[Row] = []
    for rank, case in enumerate(cases):
        split = "train" if (rank % 2 == 0) == (train_on == "even") else "test"
        images = ";".join(str(_volume(case, modality)) for modality in modalities)
        rows.append((images, case.name, "", str(_volume(case, "seg")), split))
    return rows


def _pictures(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.jpeg")) if folder.is_dir() else []
    if not found:
        raise InputError(f"--source: expected JPEG files in {folder}, found none.")
    return found


def _volume(case: Path, suffix: str) -> Path:
    for ending in (".nii.gz", ".nii"):
        path = case / f"{case.name}_{suffix}{ending}"
        if path.is_file():
            return path
    raise InputError(f"--modalities: there is no {case.name}_{suffix}.nii.gz in {case}.")


def write_table(folder: Path, rows: Sequence[Row]) -> Path:
    """Writes ``cases.csv`` into a folder and returns its path."""
    path = folder / "cases.csv"
    write_csv(path, [dict(zip(COLUMNS, row, strict=True)) for row in rows], COLUMNS)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("experiment", choices=("xray", "brats"))
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", choices=("development", "untouched", "all"), default="all")
    parser.add_argument("--modalities", default="flair")
    parser.add_argument("--train_on", choices=("even", "odd"), default="even")
    options = parser.parse_args(arguments)
    source = options.source.resolve()
    try:
        if options.experiment == "xray":
            rows = xray_rows(source, options.seed, options.half)
        else:
            rows = brats_rows(source, options.modalities.split(","), options.train_on)
    except InputError as error:
        parser.error(str(error))
    print(f"{len(rows)} cases: {write_table(options.output, rows)}")


if __name__ == "__main__":
    main()

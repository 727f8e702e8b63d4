"""``aeflow doctor``: what this machine and these data are fit for."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from aeflow.run import suited
from networks.conformal import supported_rate
from pipelines.common import installed_version
from pipelines.data import Data, open_data

PACKAGES = ("aeflow", "torch", "monai", "pytorch-ignite", "mlflow", "nibabel", "pydicom")
OPTIONAL = {
    "highdicom": "writing DICOM objects (--save_dicom)",
    "onnx": "exporting to ONNX",
}

FEW_IMAGES = 100
"""Normal training images below which a network learns little."""

GIB = 2**30


def main(words: Sequence[str]) -> None:
    """Tells what there is.

    Raises:
        InputError: when the data cannot be used.
    """
    parser = argparse.ArgumentParser(prog="aeflow doctor", description=(__doc__ or "").strip("`."))
    parser.add_argument("dataset_dir", nargs="?", help="a data folder to look at, too")
    parser.add_argument("--layout", default="auto", help="how it lies on the disk")
    parser.add_argument("--modalities", help="the channels to read")
    options = parser.parse_args(words)
    print("\n".join(machine()))
    if options.dataset_dir:
        given = suited({"dataset_dir": options.dataset_dir, "layout": options.layout})
        data = open_data(**given, modalities=options.modalities)
        print("\n".join(advice(data, options.dataset_dir)))


def machine() -> list[str]:
    """What is installed, and what there is to compute with."""
    free = shutil.disk_usage(Path.cwd()).free / GIB
    lines = [
        f"Python {platform.python_version()}; "
        + ", ".join(f"{one} {installed_version(one) or 'missing'}" for one in PACKAGES),
        f"{os.cpu_count()} processors, {_memory()}{free:.0f} GiB of disk free here",
    ]
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        lines.append(f"GPU {number}: {found.name}, {found.total_memory / GIB:.0f} GiB")
    if not torch.cuda.is_available():
        lines.append(
            "no GPU that PyTorch can use: train with the defaults, sized for two processors"
        )
    lines += [
        f"{package} is not installed: no {use}"
        for package, use in OPTIONAL.items()
        if installed_version(package) is None
    ]
    return lines


def _memory() -> str:
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:  # not on every system
        return ""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{free / GIB:.1f} GiB of memory free, "


def advice(data: Data, dataset_dir: str) -> list[str]:
    """What the data are fit for, and the command to begin with."""
    cohort, split = data.cohort, data.split
    normal, held = len(split.train), len(split.patients("calibration"))
    kind = "volumes" if cohort.volumetric else "pictures"
    lines = [
        f"{dataset_dir}: {len(cohort.cases)} {kind} in the layout {cohort.layout} "
        f"({', '.join(cohort.modalities)}); to train {normal}, to calibrate "
        f"{len(split.calibration)} of {held} patients, to test {len(split.test)}",
        f"{held} patients support a false-positive rate of {supported_rate(held, 0.05):.3g} "
        "(5 % needs 19, 1 % needs 99)",
    ]
    if not cohort.volumetric and normal < FEW_IMAGES:
        lines.append(f"{normal} normal pictures are few: expect little below {FEW_IMAGES}")
    labels = {case.label for case in split.test} | {1 for case in split.test if case.mask}
    if not split.test or labels == {0}:
        lines.append("no anomalous test case: a training cannot say how well it finds any")
    gpu = torch.cuda.is_available()
    if not (gpu or cohort.volumetric):
        lines.append("pictures need a GPU for the best quality; the defaults here are a first look")
    return [*lines, f"Begin with: aeflow train {dataset_dir}"]

"""``aeflow doctor``: what this machine and these data are fit for."""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from aeflow.commands import COMMANDS
from aeflow.run import suited
from networks.conformal import patients_needed, supported_rate
from pipelines.common import counted, installed_version
from pipelines.data import Data, open_data

PACKAGES = ("aeflow", "torch", "monai", "pytorch-ignite", "mlflow", "nibabel", "pydicom")
OPTIONAL = {
    "highdicom": "writing DICOM objects (--save_dicom)",
    "onnx": "exporting to ONNX",
}

FEW_IMAGES = 100
"""Normal training pictures below which a network learns little."""

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
        usual = (COMMANDS["train"].defaults["window"], None)
        data = open_data(**given, modalities=options.modalities, windows=usual)
        print("\n".join(advice(data, options.dataset_dir)))


def machine() -> list[str]:
    """What is installed, and what there is to compute with."""
    memory = free_memory()
    free = f"{shutil.disk_usage(Path.cwd()).free / GIB:.0f} GiB of disk free here"
    lines = [
        f"Python {platform.python_version()}; "
        + ", ".join(f"{one} {installed_version(one) or 'missing'}" for one in PACKAGES),
        f"{os.cpu_count()} processors, "
        + (free if memory is None else f"{memory:.1f} GiB of memory free, {free}"),
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


def advice(data: Data, dataset_dir: str) -> list[str]:
    """What the data are fit for, and the command to begin with."""
    cohort, split = data.cohort, data.split
    normal, held = len(split.train), len(split.patients("calibration"))
    lines = [
        f"{dataset_dir}: {listed(data)}; to train {normal}, to calibrate "
        f"{len(split.calibration)} of {held} patients, to test {len(split.test)}",
        *normals_told(data, 0.05),
    ]
    gpu = torch.cuda.is_available()
    if not (gpu or cohort.volumetric):
        lines.append("pictures need a GPU for the best quality; the defaults here are a first look")
    return [*lines, f"Begin with: aeflow train {dataset_dir}"]


def listed(data: Data) -> str:
    """What a data set holds, in words."""
    cohort = data.cohort
    kind = "volumes" if cohort.volumetric else "pictures"
    if cohort.signals:
        kind = "signals"
    modalities = ", ".join(cohort.modalities)
    return f"{len(cohort.cases)} {kind} in the layout {cohort.layout} ({modalities})"


def normals_told(data: Data, rate: float) -> list[str]:
    """Whether there are normal images enough, known from the listing alone.

    Args:
        data: the data set.
        rate: the false-positive rate that is wanted.
    """
    split = data.split
    normal, held = len(split.train), len(split.patients("calibration"))
    supported, needed = supported_rate(held, rate), patients_needed(rate)
    patients = len(split.patients("train")) + held
    told = counted(held, "held-out normal patient")
    verb = "supports" if held == 1 else "support"
    lines = [f"{told} {verb} a false-positive rate of {supported:.3g}"]
    if supported > rate:
        lines[0] += (
            f", which is taken; {rate:g} needs {needed}: some {math.ceil(needed * patients / held)}"
            f" normal patients to train and calibrate, where there are {patients}"
        )
    if not data.cohort.volumetric and normal < FEW_IMAGES:
        lines.append(f"{normal} normal pictures are few: expect little below {FEW_IMAGES}")
    labels = {case.label for case in split.test} | {1 for case in split.test if case.mask}
    if not split.test or labels == {0}:
        lines.append("no anomalous test case: a training cannot say how well it finds any")
    return lines


def free_memory() -> float | None:
    """Free memory in GiB; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    return int(found.split()[1]) / 2**20

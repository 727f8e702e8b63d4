"""Volumes per second of a batch evaluation with maps, beside its floor.

    python -m benchmarks.volumes --dataset_dir <BraTS> --ckpt_dir <model> --output volumes.json

The volumes of a folder, repeated under other names, are read, scored, summed up and written as
`evaluate` does it, without the figures and the report at its end, which are timed apart. The floor
is reading and writing alone with as many threads: all images and masks are decoded, all maps
compressed and written, and nothing is computed. Stages run side by side: their seconds per volume
are summed over the threads and so may exceed the whole.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events

from pipelines import scoring
from pipelines.batch import CaseRun, Gathered, writer
from pipelines.common import choose_device, spare_threads, write_json
from pipelines.data import Case, CaseDataset, CaseLoader, case_loader, model_loader, open_data
from pipelines.metrics import summarize
from pipelines.outputs import write_volume
from transforms.readers import read_image

PAGE = os.sysconf("SC_PAGE_SIZE")
RATES = ("volumes_per_second", "floor_volumes_per_second", "times_the_floor")


@dataclass
class Clock:
    """Seconds that threads spend in functions, by stage."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its calls timed."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                with self._lock:
                    self.seconds[stage] += time.perf_counter() - began

        return call


class Bench:
    """One model, and the volumes that it scores.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = choose_device(options.device)
        self.model = scoring.read_model(options.ckpt_dir)
        self.scorer = scoring.load_scorer(self.model, self.device)
        data = open_data(options.dataset_dir, modalities=self.model["modalities"])
        self.known = data.cohort.cases
        self.cases = [renamed(self.known, number) for number in range(options.repeat)]
        self.volumetric = data.cohort.volumetric

    def evaluate(self, folder: Path, chosen: Sequence[Case]) -> tuple[Gathered, list[float]]:
        """Scores cases; gives what came out, and the resident memory in GiB after each."""
        dataset = CaseDataset(chosen, model_loader(self.model), baselines=True)
        loader = case_loader(dataset)
        evaluator = scoring.CaseEvaluator(
            self.scorer,
            scoring.ScoreSlices(self.options.batch_size),
            scoring.case_reference(self.model),
            scoring.load_scope(self.model),
            compiling="auto",
            device=self.device,
            val_data_loader=loader,
        )
        resident: list[float] = []
        evaluator.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: resident.append(resident_memory())
        )
        return CaseRun(evaluator, loader, str(folder), self.options.ckpt_dir).run(), resident

    def timed(self, folder: Path) -> tuple[Gathered, dict[str, Any]]:
        """Scores all cases, and tells how long it took, in all and by stage."""
        clock, began = Clock(), time.perf_counter()
        with ExitStack() as stack:
            for stage, owner, name in (
                ("reading", CaseLoader, "__call__"),
                ("scoring", scoring.cases, "score_cases"),
                ("summing up", writer, "case_result"),
                ("writing maps", writer, "write_maps"),
                ("writing results", writer, "save_result"),
                ("waiting to write", writer.CaseWriter, "submit"),
            ):
                stack.enter_context(
                    patch.object(owner, name, clock.timed(stage, getattr(owner, name)))
                )
            gathered, resident = self.evaluate(folder, self.cases)
        seconds = time.perf_counter() - began
        if gathered.failures:
            raise RuntimeError(f"not evaluated: {gathered.failures[0].reason}")
        stages = {name: value / len(self.cases) for name, value in clock.seconds.items()}
        return gathered, {"seconds": seconds, "stages": stages, "resident": resident}

    def floor(self, folder: Path, maps: Path) -> float:
        """Seconds of reading all images and masks, and writing the maps of all, alone."""
        written = [_stored(maps, case.name) for case in self.cases[: len(self.known)]]

        def read(case: Case) -> None:
            for image in (*case.images, *([case.mask] if case.mask else [])):
                read_image(image)

        def write(number: int) -> None:
            for kind, values, affine in written[number % len(written)]:
                write_volume(folder / f"{number}_{kind}.nii.gz", values, affine, {})

        began, threads = time.perf_counter(), spare_threads()
        with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(threads) as writers:
            reading = readers.map(read, self.cases)
            list(writers.map(write, range(len(self.cases))))
            list(reading)
        return time.perf_counter() - began

    def figures(self, gathered: Gathered) -> float:
        """Seconds of the figures that an evaluation tells at its end."""
        began, calibration = time.perf_counter(), self.scorer.calibration
        summarize(
            gathered.rows,
            gathered.pixels,
            gathered.baseline_pixels,
            threshold=float(calibration.threshold),
            pixel_threshold=float(calibration.pixel_threshold),
            volumetric=self.volumetric,
        )
        return time.perf_counter() - began

    def measure(self) -> dict[str, Any]:
        """All rounds, evaluation and floor in turn."""
        rounds: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as name:
            self.evaluate(Path(name) / "warm", self.cases[:1])
            for number in range(self.options.rounds):
                folder = Path(name) / str(number)
                gathered, told = self.timed(folder)
                floor = self.floor(folder / "floor", folder / "maps")
                rounds.append(told | {"floor_seconds": floor})
            figures = self.figures(gathered)
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        volumes = len(self.cases)
        seconds = [one["seconds"] for one in rounds]
        floors = [one["floor_seconds"] for one in rounds]
        return {
            "volumes": volumes,
            "threads": {"reading": spare_threads(), "writing": spare_threads()},
            "volumes_per_second": volumes / statistics.median(seconds),
            "floor_volumes_per_second": volumes / statistics.median(floors),
            "times_the_floor": statistics.median(seconds) / statistics.median(floors),
            "stages": {
                stage: statistics.median(one["stages"][stage] for one in rounds)
                for stage in rounds[0]["stages"]
            },
            "resident_quarters": quarters(rounds[-1]["resident"]),
            "device_memory": peak,
            "figures_seconds": figures,
            "rounds": rounds,
        }


def renamed(known: Sequence[Case], number: int) -> Case:
    """The case of a number, the known ones again and again, each time of another patient."""
    case, again = known[number % len(known)], number // len(known)
    return replace(case, name=f"{case.name}_{again}", patient=f"{case.patient}_{again}")


def resident_memory() -> float:
    """Memory that this process holds, in GiB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**30


def quarters(resident: Sequence[float]) -> list[float]:
    """The highest memory in each quarter of a run."""
    return [float(part.max()) for part in np.array_split(resident, 4) if part.size]


def _stored(maps: Path, name: str) -> list[tuple[str, Any, Any]]:
    """The maps that were written of a case: kind, values and affine."""
    kinds = ("anomaly", "mask")
    images: list[Any] = [nib.load(maps / f"{name}_{kind}.nii.gz") for kind in kinds]
    return [(k, np.asarray(one.dataobj), one.affine) for k, one in zip(kinds, images, strict=True)]


def table(found: dict[str, Any]) -> list[str]:
    """The lines of two Markdown tables."""
    rates = (f"{found[name]:.2f}" for name in RATES)
    memory = ", ".join(f"{value:.2f}" for value in found["resident_quarters"])
    cells = (str(found["volumes"]), *rates, memory, f"{found['figures_seconds']:.1f}")
    lines = [
        "| volumes | volumes/s | floor's | times the floor | GiB by quarter | figures, s |",
        "|---|---|---|---|---|---|",
        f"| {' | '.join(cells)} |",
        "",
        "| stage | seconds per volume |",
        "|---|---|",
    ]
    return lines + [f"| {stage} | {value:.3f} |" for stage, value in found["stages"].items()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dataset_dir", required=True, help="folder of volumes, e.g. BraTS")
    parser.add_argument("--ckpt_dir", required=True, help="folder of a trained model")
    parser.add_argument("--repeat", type=int, default=120, help="volumes in all")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=32, help="slices at once")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    bench = Bench(options)
    found, gpu = bench.measure(), bench.device.type == "cuda"
    device = torch.cuda.get_device_name() if gpu else platform.processor() or "CPU"
    threads = f"{spare_threads()} threads read, {spare_threads()} write"
    print(f"{device}, {os.cpu_count()} cores, torch {torch.__version__}; {threads}")
    print("\n".join(table(found)))
    if options.output:
        write_json(options.output, {"device": device, **found})


if __name__ == "__main__":
    main()

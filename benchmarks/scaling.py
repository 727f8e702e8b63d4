"""Images per second with one process and with several, one GPU each: weak scaling.

``python -m benchmarks.scaling --output scaling.json`` starts as many processes as there are GPUs
(``--device cpu --processes 2`` without), which stay; in each round 1, 2, 4 ... of them work
together in turn, and medians are told. Each process has ``--batch_size`` images at once, whatever
their number. Pre-training and training are those of a run, on noise, features not cached; scoring
is from images in memory to scores and maps on the host; evaluation from PNG files to results, of
a quarter of the images, since it takes longest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from PIL import Image

from networks import AnomalyScorer, Detector, make_fusion
from pipelines.batch import CaseRun
from pipelines.common import (
    barrier,
    choose_device,
    from_main,
    join,
    leave,
    of_all,
    write_json,
)
from pipelines.data import Case, CaseDataset, CaseLoader, NormalSlices, case_loader, slice_loader
from pipelines.scoring import MODEL_NAME, Calibrator, CaseEvaluator, ScoreSlices
from pipelines.training import NormalBatches, StageTrainer, make_detector
from transforms.augment import NormalVariation
from transforms.synthetic import SyntheticAnomalies

Rates = dict[str, dict[str, list[float]]]
PHASES = ("pretrain", "train", "scoring", "evaluation")


class Bench:
    """What one process does with the pictures in a folder."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.loader = CaseLoader(options.image_size, channels=options.channels, volumetric=False)
        files = enumerate(sorted(folder.glob("*.png")))
        self.cases = [Case(str(number), str(number), (one,), label=0) for number, one in files]
        self.slices = NormalSlices(self.cases, self.loader)
        self.detector: Detector = make_detector(
            "aeflow", in_channels=options.channels, encoder=options.encoder, with_head=True,
            flow_strides=(16,), decoder_width=options.decoder_width,
        )  # fmt: skip
        self.scorer = AnomalyScorer(self.detector, make_fusion("fused"))
        self.device = choose_device(options.device)
        loader = slice_loader(self.slices, options.batch_size)
        Calibrator(self.scorer, loader, self.device, target_fpr=0.5).run()

    def run(self, phase: str, count: int) -> float:
        """Images per second of so many processes together."""
        self.device = choose_device(self.options.device)
        self.scorer.to(self.device)
        iterations: int = self.options.iterations
        if phase == "evaluation":
            iterations = max(1, iterations // 4)
        images: int = count * self.options.batch_size * iterations
        by_name = {"scoring": self._score, "evaluation": self._evaluate}
        return images / by_name.get(phase, self._train)(phase, images)

    def _train(self, stage: str, images: int) -> float:
        """Seconds of the second of two epochs."""
        self.detector.prepare(NormalBatches(self.slices, self.device), stage)
        trainer = StageTrainer(
            self.detector, stage, partial(torch.optim.AdamW, lr=1e-6),
            SyntheticAnomalies(variation=NormalVariation()),
            cosine=stage == "pretrain", average=stage == "pretrain", cache_gigabytes=0.0,
            max_grad_norm=1.0, max_epochs=2, device=self.device, amp=True,
            train_data_loader=slice_loader(
                self.slices, self.options.batch_size, 0, stage, min_samples=images
            ),
        )  # fmt: skip
        times: list[float] = []
        for event in (Events.EPOCH_STARTED(once=2), Events.EPOCH_COMPLETED(once=2)):
            trainer.add_event_handler(event, lambda: times.append(self._now()))
        trainer.run()
        return times[1] - times[0]

    def _score(self, phase: str, images: int) -> float:
        self.scorer.eval()
        score, batch = ScoreSlices(self.options.batch_size), self.slices.images
        context = {name: self.slices.context[name] for name in self.detector.needs}
        with torch.no_grad():
            score(batch, self.scorer, context, self.device)
            began = self._now()
            scores = [
                score(batch, self.scorer, context, self.device)["score"]
                for _ in range(self.options.iterations)
            ]
            of_all(scores)
        return self._now() - began

    def _evaluate(self, phase: str, images: int) -> float:
        named = zip(range(images), cycle(self.cases), strict=False)
        cases = [replace(case, name=f"{number:06d}") for number, case in named]
        loader = case_loader(CaseDataset(cases, self.loader), self.options.batch_size)
        evaluator = CaseEvaluator(self.scorer, device=self.device, val_data_loader=loader)
        output = from_main(lambda: tempfile.mkdtemp(dir=self.folder))
        run = CaseRun(evaluator, loader, output, str(self.folder), save_maps=False)
        began = self._now()
        run.run()
        return self._now() - began

    def _now(self) -> float:
        """The time at which all processes are here."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        barrier()
        return time.perf_counter()


def work(rank: int, options: argparse.Namespace, port: int, gate: Any, folder: Path) -> None:
    """What each process does: all rounds, in those of their parts that it belongs to."""
    if options.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(rank)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    bench = Bench(options, folder)
    found: Rates = {phase: {str(count): [] for count in options.counts} for phase in PHASES}
    turns = [(turn, count) for turn in range(options.rounds + 1) for count in options.counts]
    for number, (turn, count) in enumerate(turns):
        gate.wait()
        if rank >= count:
            continue
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        told |= {"MASTER_PORT": port + number}  # as torchrun tells it
        os.environ.update({name: str(value) for name, value in told.items()})
        join(options.device)
        for phase in PHASES:
            rate = bench.run(phase, count)
            if turn:  # the first round warms up
                found[phase][str(count)].append(rate)
        leave()
        if rank == 0 and turn:
            rates = (f"{phase} {by[str(count)][-1]:.0f}" for phase, by in found.items())
            print(f"round {turn}, {count} processes:", *rates, "images/s", flush=True)
    if rank == 0:
        write_json(folder / "found.json", found)


def table(rates: Rates) -> list[str]:
    """The lines of a Markdown table."""
    lines = ["| phase | processes | images/s (range) | times one process |", "|---|---|---|---|"]
    for phase, by_count in rates.items():
        one = statistics.median(next(iter(by_count.values())))
        for count, found in by_count.items():
            rate = statistics.median(found)
            spread = f"{min(found):.0f} to {max(found):.0f}"
            lines.append(f"| {phase} | {count} | {rate:.0f} ({spread}) | {rate / one:.2f} |")
    return lines


def write_pictures(folder: Path, options: argparse.Namespace) -> None:
    """Writes one batch of pictures of smooth noise."""
    side = (options.image_size, options.image_size)
    for number in range(options.batch_size):
        coarse = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC)
        picture.convert("RGB" if options.channels > 1 else "L").save(folder / f"{number:03d}.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"))
    parser.add_argument("--processes", type=int, default=max(1, torch.cuda.device_count()))
    parser.add_argument("--encoder", default="wide_resnet50_2")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--decoder_width", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=64, help="images of a process at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    doubled = [2**power for power in range(options.processes.bit_length())]
    options.counts = sorted({*doubled, options.processes})
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does
    gate = torch.multiprocessing.get_context("spawn").Barrier(options.processes)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, options)
        (folder / MODEL_NAME).touch()
        torch.multiprocessing.spawn(work, (options, port, gate, folder), options.processes)
        rates = json.loads((folder / "found.json").read_text())
    gpu = options.device != "cpu" and torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else platform.processor() or "CPU"
    told = f"{options.encoder}, {options.image_size} pixels, {options.batch_size} images a process"
    print("\n".join([f"{device}, torch {torch.__version__}, {told}", *table(rates)]))
    if options.output:
        write_json(options.output, {"device": device, "images_per_second": rates})


if __name__ == "__main__":
    main()

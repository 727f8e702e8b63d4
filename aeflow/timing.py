"""How long a training will take, by a few steps of it on this machine."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.utils.misc import set_determinism

from pipelines.data import Case, Data, NormalPatches, NormalSlices, as_seen

STEPS = {"cuda": 8, "cpu": 3}
"""Steps of an epoch, of which two are made."""

MOST_AT_ONCE = {"cuda": 1 << 30, "cpu": 16}
"""Images of a step: on a processor each takes about as long in a small batch as in a large one."""

SLACK, START = 1.3, 0.5
"""What the upper bound allows for all that is not timed, as a factor and in minutes: validation,
calibration, evaluation and report."""


class Stage(NamedTuple):
    """A stage of the training.

    Attributes:
        least: seconds that it will take if all steps are as the fastest of those timed.
        most: if all are as the slowest.
        steps: that it will make.
    """

    least: float
    most: float
    steps: int


class Expected(NamedTuple):
    """What a training will take.

    Attributes:
        reading: seconds to read all cases.
        stages: by name.
    """

    reading: float
    stages: Mapping[str, Stage]

    @property
    def minutes(self) -> tuple[float, float]:
        """From the command to the report, at least and at most."""
        least = self.reading + sum(one.least for one in self.stages.values())
        most = self.reading + sum(one.most for one in self.stages.values())
        return least / 60, SLACK * most / 60 + START


def measure(config: Mapping[str, Any], data: Data, cases: Sequence[Case]) -> Expected:
    """Reads a few cases and makes a few steps of each stage with them.

    Args:
        config: of a training, its options included; nothing of it is written.
        data: the data set.
        cases: some of its training cases, with a normal slice among them.

    Raises:
        InputError: when these cases cannot be used.
        torch.OutOfMemoryError: when a batch does not fit the GPU.
    """
    parser = ConfigParser(copy.deepcopy(dict(config)))
    parser["data"] = data
    loader = parser.get_parsed_content("preprocessing")
    device = parser.get_parsed_content("torch_device").type
    began = time.monotonic()
    dataset = as_seen(NormalSlices(cases, loader))
    per_case = (time.monotonic() - began) / len(cases)
    images = max(1, round(len(dataset) / len(cases) * len(data.split.train)))
    stages = {
        "pretrain": _Length.of(parser, images, "pretrain_", "pretrain_epochs", device),
        "train": _Length.of(parser, images, "", "max_epochs", device),
    }
    _repeat(dataset, STEPS[device] * max(one.at_once for one in stages.values()))
    clocks = _run(parser, dataset, stages)
    found = {name: stages[name].stage(clock) for name, clock in clocks.items() if clock.ticks}
    seconds = 60.0 * parser.get_parsed_content("pretrain_minutes")
    if seconds > 0 and "pretrain" in found:
        steps = math.ceil(seconds * found["pretrain"].steps / found["pretrain"].least)
        found["pretrain"] = Stage(seconds, seconds, steps)
    read = sum(map(len, (data.split.train, data.split.calibration, data.split.test)))
    return Expected(per_case * read, found)


class _Length(NamedTuple):
    """How much a stage does, and how much of it at once when it is timed."""

    images: int
    epochs: int
    batch: int
    at_once: int

    @classmethod
    def of(
        cls, parser: ConfigParser, images: int, prefix: str, epochs: str, device: str
    ) -> _Length:
        batch = parser.get_parsed_content(f"{prefix}batch_size")
        least = parser.get_parsed_content(f"{prefix}epoch_size") if prefix else 0
        rounds = max(1, math.ceil(least / images))
        at_once = min(batch, MOST_AT_ONCE[device])
        return cls(images * rounds, parser.get_parsed_content(epochs), batch, at_once)

    def stage(self, clock: _Clock) -> Stage:
        first, later = clock.epochs()
        least, most = (
            self.images / self.at_once * (pick(first) + pick(later) * (self.epochs - 1))
            for pick in (min, max)
        )
        return Stage(least, most, self.epochs * math.ceil(self.images / self.batch))


class _Clock:
    """Notes when an engine's steps end."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.ticks: list[float] = []

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._tick)

    def _tick(self) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.ticks.append(time.monotonic())

    def epochs(self) -> tuple[list[float], list[float]]:
        """Seconds of the steps of the first epoch, once warm, and of the second, with a cache."""
        lasted = [end - start for start, end in pairwise(self.ticks)]
        return lasted[self.steps // 2 : self.steps - 1], lasted[self.steps :]


def _repeat(dataset: NormalSlices | NormalPatches, count: int) -> None:
    index = torch.arange(count) % len(dataset)
    if isinstance(dataset, NormalPatches):
        dataset.places = [dataset.places[place] for place in index]
        return
    dataset.case_numbers = dataset.case_numbers[index.numpy()]
    dataset.slice_numbers = dataset.slice_numbers[index]
    dataset.images = dataset.images[index]
    dataset.context = {name: value[index] for name, value in dataset.context.items()}


def _run(
    parser: ConfigParser, dataset: NormalSlices | NormalPatches, stages: Mapping[str, _Length]
) -> dict[str, _Clock]:
    """Runs two short epochs of each stage, on the same images."""
    steps = len(dataset) // max(one.at_once for one in stages.values())
    clocks = {name: _Clock(steps) for name in stages}
    parser["train#dataset"], parser["train#stages#checkpoints"] = dataset, None
    parser["pretrain_minutes"] = 0
    for name, length in stages.items():
        parser[f"{name}#trainer#train_data_loader#batch_size"] = length.at_once
        parser[f"{name}#trainer#max_epochs"] = 2
        parser[f"{name}#trainer#epoch_length"] = steps
        parser[f"{name}#trainer#val_data_loader"] = None
        parser[f"{name}#trainer#labelled"] = None
        parser[f"{name}#trainer#train_handlers"] = [clocks[name]]
    parser["pretrain#trainer#train_data_loader#min_samples"] = 0
    set_determinism(0)
    try:
        parser.parse()
        parser.get_parsed_content("train#stages").run()
    finally:
        set_determinism(None)
    return clocks

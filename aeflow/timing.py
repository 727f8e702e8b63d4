"""How long a training will take, by a few steps of it on this machine."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.utils.misc import set_determinism

from pipelines.data import Case, Data, NormalSlices

STEPS = {"cuda": 8, "cpu": 2}
"""Steps of an epoch, of which two are made."""

MOST_AT_ONCE = {"cuda": 1 << 30, "cpu": 16}
"""Images of a step: on a processor each takes about as long in a small batch as in a large one."""

SLACK, START = 1.5, 0.5
"""What the upper bound allows for all that is not measured, as a factor and in minutes: validation,
calibration, evaluation, report, and a machine that others use too."""


class Stage(NamedTuple):
    """A stage of the training.

    Attributes:
        seconds: that it will take.
        steps: that it will make.
    """

    seconds: float
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
        least = (self.reading + sum(one.seconds for one in self.stages.values())) / 60
        return least, SLACK * least + START


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
    dataset = NormalSlices(cases, loader)
    per_case = (time.monotonic() - began) / len(cases)
    images = max(1, round(len(dataset) / len(cases) * len(data.split.train)))
    stages = {
        "pretrain": _Length.of(parser, images, "pretrain_", "pretrain_epochs", device),
        "train": _Length.of(parser, images, "", "max_epochs", device),
    }
    _repeat(dataset, STEPS[device] * max(one.at_once for one in stages.values()))
    clocks = _run(parser, dataset, stages)
    found = {name: stages[name].stage(clock) for name, clock in clocks.items() if clock.ticks}
    minutes = parser.get_parsed_content("pretrain_minutes")
    if minutes > 0 and "pretrain" in found:
        found["pretrain"] = found["pretrain"]._replace(seconds=60.0 * minutes)
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
        first, later = (seconds / self.at_once for seconds in clock.seconds())
        seconds = self.images * (first + later * (self.epochs - 1))
        return Stage(seconds, self.epochs * math.ceil(self.images / self.batch))


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

    def seconds(self) -> tuple[float, float]:
        """Of a step in the first epoch, once warm, and in a later one, which may find a cache."""
        first, later = self.ticks[: self.steps], self.ticks[self.steps :]
        return first[-1] - first[-2], (later[-1] - later[0]) / (len(later) - 1)


def _repeat(dataset: NormalSlices, count: int) -> None:
    index = torch.arange(count) % len(dataset)
    dataset.case_numbers = dataset.case_numbers[index.numpy()]
    dataset.images = dataset.images[index]
    dataset.context = {name: value[index] for name, value in dataset.context.items()}


def _run(
    parser: ConfigParser, dataset: NormalSlices, stages: Mapping[str, _Length]
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

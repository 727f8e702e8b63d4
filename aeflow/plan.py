"""What a training will do and why: told before it, and kept beside its model."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from aeflow.commands import COMMANDS
from aeflow.timing import Expected, Stage
from pipelines.common import duration, write_json
from pipelines.runs import PLAN_NAME
from pipelines.scoring import MODEL_NAME


@dataclass(frozen=True)
class Choice:
    """An option of the training.

    Attributes:
        option: its name.
        value: what it will be.
        reason: why.
    """

    option: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a training will do.

    Attributes:
        preset: its name.
        configs: files of the bundle, the later ones on top of the earlier.
        given: the options as the user gave them.
        choices: what decides quality and duration, with reasons.
        facts: what the choices rest on: data and machine.
        notes: what the user should know beforehand.
        expected: how long it will take; None where nothing could be timed.
    """

    preset: Choice
    configs: tuple[str, ...]
    given: Mapping[str, Any]
    choices: tuple[Choice, ...]
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()
    expected: Expected | None = None

    @property
    def options(self) -> dict[str, Any]:
        """All options that differ from the configs."""
        config = merged(self.configs, {})
        chosen = {one.option: one.value for one in self.choices if one.value != config[one.option]}
        return {**self.given, **chosen}

    def __str__(self) -> str:
        lines = [(name, told) for name, told in self.facts.items()]
        lines += [
            (one.option, f"{one.value}: {one.reason}") for one in (self.preset, *self.choices)
        ]
        lines += [("note", one) for one in self.notes]
        if self.expected is not None:
            lines.append(("expected", _told(self.expected)))
        first = "The plan; each line with an option gives way to it:"
        return "\n".join([first, *(_line(name, told) for name, told in lines)])

    def as_dict(self, took: float) -> dict[str, Any]:
        """Plain values for a file.

        Args:
            took: minutes that the training took.
        """
        expected = None if self.expected is None else [round(m, 2) for m in self.expected.minutes]
        return {
            "preset": vars(self.preset),
            "configs": list(self.configs),
            "choices": [vars(one) for one in self.choices],
            "facts": dict(self.facts),
            "notes": list(self.notes),
            "expected_minutes": expected,
            "took_minutes": round(took, 2),
        }

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Writes the plan beside the model that the block makes, and compares the time."""
        model = Path(str(self.options["ckpt_dir"])) / MODEL_NAME
        before, began = _state(model), time.monotonic()
        try:
            yield
        finally:
            took = (time.monotonic() - began) / 60
            if _state(model) not in (None, before):
                write_json(model.with_name(PLAN_NAME), self.as_dict(took))
        if self.expected is not None:
            told = f"It took {duration(60 * took)}; {_range(self.expected)} was expected."
            print(told, flush=True)


def merged(names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a training, with options on top.

    Args:
        names: of the bundle's files, the later ones on top of the earlier.
        given: the options.
    """
    parser = ConfigParser()
    parser.read_config(COMMANDS["train"].config_files(names))
    parser.update(dict(given))
    return dict(parser.get())


def _state(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else None


def _range(expected: Expected) -> str:
    low, high = (duration(60 * minutes) for minutes in expected.minutes)
    return f"{low} to {high}"


def _of_a_step(stage: Stage) -> str:
    told = [f"{seconds / stage.steps:.2g}" for seconds in (stage.least, stage.most)]
    return " to ".join(dict.fromkeys(told))


def _told(expected: Expected) -> str:
    stages = "".join(
        f", {name} {one.steps} steps of {_of_a_step(one)} s"
        for name, one in expected.stages.items()
    )
    return (
        f"{_range(expected)}, by a few steps just timed here: reading "
        f"{duration(expected.reading)}{stages}; the upper figure allows for what was not timed, "
        "such as calibration, evaluation and report"
    )


def _line(name: str, told: str) -> str:
    return textwrap.fill(
        f"  {name:<16} {told}", width=100, subsequent_indent=" " * 19,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip

"""Progress for people: bars with time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from ignite.engine import Engine, Events
from tqdm import tqdm

from pipelines.common.distributed import is_main
from pipelines.common.failures import on_failure
from pipelines.common.files import write_json

logger = logging.getLogger(__name__)

T = TypeVar("T")

PLAIN_INTERVAL = 20.0
"""Seconds between two plain lines of one phase."""


def duration(seconds: float) -> str:
    """Formats seconds as minutes and seconds, or hours.

    Example:
        >>> duration(75), duration(3700)
        ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Meter:
    """Shows how far one phase is and how long it will still take.

    Args:
        description: what is being done.
        total: number of steps.
        unit: what the steps are called.
        seconds: after which it ends, whatever is done by then; 0 for when all is done.
    """

    def __init__(
        self, description: str, total: int, unit: str = "steps", seconds: float = 0.0
    ) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.seconds = seconds
        self.done = 0
        self.began = self.spoke = time.monotonic()
        self.bar: Any = (
            tqdm(
                total=None if seconds else total,
                desc=description,
                unit=unit,
                leave=False,
                dynamic_ncols=True,
            )
            if is_main() and sys.stderr.isatty()
            else None
        )

    def advance(self) -> None:
        """Counts one step."""
        self.done += 1
        if self.bar is not None:
            self.bar.update()
            return
        now = time.monotonic()
        if now - self.spoke >= PLAIN_INTERVAL and self.done < self.total:
            self.spoke = now
            of = "" if self.seconds else f" of {self.total}"
            left = _left(now - self.began, self.done, self.total, self.seconds)
            told = f"{self.description}: {self.done}{of} {self.unit}"
            logger.info("%s, about %s left", told, left)

    def close(self) -> None:
        """Removes the bar."""
        if self.bar is not None:
            self.bar.close()


def track(items: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
    """Yields the items and shows the progress through them."""
    meter = Meter(description, total, unit)
    try:
        for item in items:
            yield item
            meter.advance()
    finally:
        meter.close()


def _left(passed: float, done: int, total: int, seconds: float) -> str:
    """How long a phase still takes, by the clock where it ends after so many seconds."""
    return duration(max(0.0, seconds - passed) if seconds else passed / done * (total - done))


def _seconds(engine: Engine) -> float:
    """After which an engine ends by the clock; 0 for one that ends with its epochs."""
    return 60 * float(getattr(engine, "minutes", 0.0))


def quieten(engine: Engine) -> None:
    """Silences the lines that Ignite writes around every run and epoch."""
    engine.logger.setLevel(logging.WARNING)


class EngineProgress:
    """Shows an engine's progress over all its epochs, with the time left.

    Args:
        description: what the engine does.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self.meter: Meter | None = None

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an engine."""
        quieten(engine)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)
        on_failure(engine, self._close)

    def _start(self, engine: Engine) -> None:
        epochs = (engine.state.max_epochs or 1) - engine.state.epoch
        total, seconds = epochs * (engine.state.epoch_length or 1), _seconds(engine)
        self.meter = Meter(self.description, total, "batches", seconds)

    def _advance(self, engine: Engine) -> None:
        if self.meter is not None:
            self.meter.advance()

    def _close(self) -> None:
        if self.meter is not None:
            self.meter.close()
            self.meter = None


class ProgressFile:
    """Keeps a JSON file up to date for other programs that follow a run.

    It holds ``phase``, its ``epoch`` and how many there are ``of``, the epochs ``done`` in all
    phases, ``metrics`` (null where not finite), and when the run ``started`` and the file was
    ``updated`` (ISO 8601).

    Args:
        output_dir: the folder of ``progress.json``, which is replaced whole at each epoch.
    """

    def __init__(self, output_dir: str) -> None:
        self.path = Path(output_dir) / "progress.json"
        self.started = datetime.now().astimezone()
        self._done: dict[str, int] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a later process needs to go on with the file."""
        return {"done": dict(self._done)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Counts the epochs of an earlier process too."""
        self._done = dict(state["done"])

    def write(self, phase: str, epoch: int, of: int, metrics: Mapping[str, float]) -> None:
        """Takes the place of what the file said before; the first of several processes writes."""
        if not is_main():
            return
        self._done[phase] = epoch
        content = {
            "phase": phase,
            "epoch": epoch,
            "of": of,
            "done": sum(self._done.values()),
            "metrics": {k: v if math.isfinite(v) else None for k, v in metrics.items()},
            "started": self.started.isoformat(timespec="seconds"),
            "updated": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        write_json(self.path, content)


class EpochLine:
    """Writes one line per epoch: the epoch's metrics and the time left.

    Args:
        description: what the engine does.
        names: the metrics to write, as ``{metric: how it is called}``.
        validator: an engine whose metrics join the line of each epoch in which it ran, if any.
        file: what is kept up to date with the same, if anything.
    """

    def __init__(
        self,
        description: str,
        names: dict[str, str],
        validator: Engine | None = None,
        file: ProgressFile | None = None,
    ) -> None:
        self.description = description
        self.names = names
        self.validator = validator
        self.file = file
        self.began = 0.0
        self.first_epoch = 0

    def attach(self, engine: Engine) -> None:
        """Registers the handler; attach it after the validation handler."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self.began = time.monotonic()
        self.first_epoch = engine.state.epoch

    def _write(self, engine: Engine) -> None:
        metrics = dict(engine.state.metrics)
        if self.validator is not None and self.validator.state.epoch == engine.state.epoch:
            metrics |= self.validator.state.metrics
        values = {name: float(metrics[name]) for name in self.names if name in metrics}
        epoch, last = engine.state.epoch, engine.state.max_epochs or engine.state.epoch
        elapsed = time.monotonic() - self.began
        seconds, first = _seconds(engine), self.first_epoch
        of = "" if seconds else f"/{last}"
        left = _left(elapsed, max(1, epoch - first), last - first, seconds)
        with tqdm.external_write_mode(file=sys.stderr):
            logger.info(
                "%s %d%s: %s (%s left)",
                self.description,
                epoch,
                of,
                ", ".join(f"{self.names[name]} {value:.4g}" for name, value in values.items()),
                left,
            )
        if self.file is not None:
            self.file.write(self.description, epoch, last, values)

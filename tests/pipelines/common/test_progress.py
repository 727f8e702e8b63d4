"""Progress, on a terminal and elsewhere."""

import io
import json
import logging
from contextlib import redirect_stderr
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events

from pipelines.common import progress
from pipelines.common.progress import (
    EngineProgress,
    EpochLine,
    Meter,
    ProgressFile,
    duration,
    track,
)


class Clock:
    """Seconds that pass when told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def line(self) -> str:
        """What stands in the line of the cursor."""
        return self.getvalue().split("\r")[-1]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    caplog.set_level(logging.INFO, logger="pipelines.common.progress")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0:00"), (59.6, "1:00"), (75, "1:15"), (3599.7, "1:00:00")]
)
def test_duration(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_plain_lines_come_now_and_then_with_the_time_left(clock: Clock, lines: Any) -> None:
    meter = Meter("Reading", 9, "cases")
    assert meter.bar is None
    for _ in range(9):
        clock.now += 9
        meter.advance()
    meter.close()
    assert lines() == [
        "Reading: 3 of 9 cases, about 0:54 left",
        "Reading: 6 of 9 cases, about 0:27 left",
    ]  # and nothing at the end


def test_what_ends_by_the_clock_says_how_long_it_still_takes(clock: Clock, lines: Any) -> None:
    meter = Meter("Training", 100_000, "batches", seconds=60.0)
    for _ in range(8):
        clock.now += 9
        meter.advance()
    assert lines() == [
        "Training: 3 batches, about 0:33 left",
        "Training: 6 batches, about 0:06 left",
    ]


def test_a_short_phase_says_nothing(clock: Clock, lines: Any) -> None:
    assert list(track("abc", "Reading", 3, "cases")) == ["a", "b", "c"]
    assert lines() == []


def test_a_terminal_gets_a_bar_with_the_time_left() -> None:
    with redirect_stderr(Terminal()) as terminal:
        meter = Meter("Training", 4, "batches")
        for _ in range(3):
            meter.advance()
        meter.bar.refresh()
        drawn = terminal.line
        meter.close()
    assert "Training:  75%" in drawn and "3/4" in drawn
    assert "<" in drawn  # elapsed<left
    assert "Training" not in terminal.line  # nothing is left behind


def test_track_closes_the_bar_when_the_work_fails() -> None:
    with redirect_stderr(Terminal()) as terminal:
        steps = track(range(3), "Reading", 3, "cases")
        next(steps)
        assert "Reading" in terminal.line
        with pytest.raises(ZeroDivisionError):
            steps.throw(ZeroDivisionError)  # type: ignore[attr-defined]
    assert "Reading" not in terminal.line


def test_an_engines_progress_runs_over_all_its_epochs(lines: Any) -> None:
    engine, handler = Engine(lambda engine, batch: None), EngineProgress("Training")
    handler.attach(engine)
    seen: list[tuple[int, int]] = []

    @engine.on(Events.ITERATION_COMPLETED)
    def look() -> None:
        assert handler.meter is not None
        seen.append((handler.meter.done, handler.meter.total))

    engine.run([0, 0], max_epochs=3)
    assert seen == [(done, 6) for done in range(1, 7)]
    assert handler.meter is None


def test_an_engines_error_closes_the_bar_and_goes_on() -> None:
    def fail(engine: Engine, batch: int) -> None:
        raise ZeroDivisionError("oh")

    engine, handler = Engine(fail), EngineProgress("Training")
    handler.attach(engine)
    with redirect_stderr(Terminal()) as terminal, pytest.raises(ZeroDivisionError, match="oh"):
        engine.run([0], max_epochs=1)
    assert handler.meter is None
    assert "Training" in terminal.getvalue() and "Training" not in terminal.line


def test_an_epochs_line_tells_metrics_and_time_left(clock: Clock, lines: Any) -> None:
    trainer, validator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)

    @trainer.on(Events.EPOCH_COMPLETED)
    def measure() -> None:
        clock.now += 10
        trainer.state.metrics["loss"] = 0.123456 / trainer.state.epoch
        validator.state.metrics["val_loss"] = 2.0
        validator.state.epoch = trainer.state.epoch

    names = {"loss": "loss", "val_loss": "held-out loss", "absent": "absent"}
    EpochLine("Epoch", names, validator).attach(trainer)
    trainer.run([0], max_epochs=3)
    assert lines() == [
        "Epoch 1/3: loss 0.1235, held-out loss 2 (0:20 left)",
        "Epoch 2/3: loss 0.06173, held-out loss 2 (0:10 left)",
        "Epoch 3/3: loss 0.04115, held-out loss 2 (0:00 left)",
    ]


def test_held_out_metrics_stand_only_in_the_lines_of_their_own_epochs(lines: Any) -> None:
    trainer, validator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)

    @trainer.on(Events.EPOCH_COMPLETED(every=2))
    def validate() -> None:
        validator.state.epoch = trainer.state.epoch
        validator.state.metrics["val_loss"] = float(trainer.state.epoch)

    EpochLine("Epoch", {"val_loss": "held-out loss"}, validator).attach(trainer)
    trainer.run([0], max_epochs=5)
    told = [line.partition(": ")[2].partition(" (")[0] for line in lines()]
    assert told == ["", "held-out loss 2", "", "held-out loss 4", ""]


def test_a_resumed_run_counts_its_own_epochs_for_the_time_left(clock: Clock, lines: Any) -> None:
    engine = Engine(lambda engine, batch: None)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: setattr(clock, "now", clock.now + 10))
    EpochLine("Epoch", {}).attach(engine)
    engine.load_state_dict({"epoch_length": 1, "max_epochs": 10, "iteration": 8})
    engine.run([0])
    assert lines()[0].endswith("(0:10 left)")


def test_other_programs_read_how_far_a_run_is(tmp_path: Path) -> None:
    file, seen = ProgressFile(str(tmp_path / "out")), []
    for phase, epochs in (("Pre-training epoch", 2), ("Epoch", 3)):
        engine = Engine(lambda engine, batch: None)

        @engine.on(Events.EPOCH_COMPLETED)
        def measure(engine: Engine) -> None:
            engine.state.metrics |= {"loss": 0.5 / engine.state.epoch, "other": 1.0}
            engine.state.metrics["auroc"] = float("nan")

        EpochLine(phase, {"loss": "loss", "auroc": "AUROC"}, file=file).attach(engine)

        @engine.on(Events.EPOCH_COMPLETED)
        def read() -> None:
            seen.append(json.loads(file.path.read_text()))

        engine.run([0], max_epochs=epochs)
    told = [(one["phase"], one["epoch"], one["of"], one["done"]) for one in seen]
    first = [("Pre-training epoch", number, 2, number) for number in (1, 2)]
    assert told == first + [("Epoch", number, 3, 2 + number) for number in (1, 2, 3)]
    assert [one["metrics"] for one in seen[:2]] == [
        {"loss": 0.5, "auroc": None},
        {"loss": 0.25, "auroc": None},
    ]
    assert len({one["started"] for one in seen}) == 1
    for one in seen:
        times = [datetime.fromisoformat(one[name]) for name in ("started", "updated")]
        assert times == sorted(times) and times[0].tzinfo
    assert [one.name for one in file.path.parent.iterdir()] == ["progress.json"]

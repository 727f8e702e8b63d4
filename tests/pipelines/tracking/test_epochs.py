"""What is told and recorded of an epoch."""

import logging
from typing import Any

import pytest
from ignite.engine import Engine, Events

from pipelines.tracking.epochs import EpochReport


class FakeTracker:
    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics.append(metrics)

    def fail(self) -> None:
        pass


@pytest.mark.parametrize("phase", ["pretrain", "train"])
@pytest.mark.parametrize("validated", [True, False])
def test_an_epoch_is_told_and_recorded(
    phase: str, validated: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tracker: Any = FakeTracker()
    engine: Any = Engine(lambda engine, batch: None)
    engine.phase, engine.validator, engine.terms = phase, None, ("loss",)
    metrics = {"loss": 1.5, "val_loss": 2.5, "val_flow_loss": 3.5}
    if validated:
        engine.validator = Engine(lambda engine, batch: None)
        engine.validator.terms = ("val_loss", "val_flow_loss")

    @engine.on(Events.EPOCH_COMPLETED)
    def measure() -> None:
        engine.state.metrics = {"loss": metrics["loss"]}
        if validated:
            engine.validator.run([0])

    if validated:
        engine.validator.add_event_handler(
            Events.STARTED,
            lambda running: running.state.metrics.update(
                {k: v for k, v in metrics.items() if k.startswith("val_")}
            ),
        )
    EpochReport(tracker).attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run([0])
    recorded = {name: value for one in tracker.metrics for name, value in one.items()}
    held = "pretrain/val_" if phase == "pretrain" else "val/"
    expected = {f"{phase}/loss": 1.5}
    if validated:
        expected |= {f"{held}loss": 2.5, f"{held}flow_loss": 3.5}
    assert recorded == expected
    line = "Pre-training epoch 1/1: loss 1.5" if phase == "pretrain" else "Epoch 1/1: loss 1.5"
    assert line in caplog.text
    assert ("held-out loss 2.5, held-out flow loss 3.5" in caplog.text) is validated

"""What MLflow is told of each epoch is what the log and the engines say of it."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from mlflow import MlflowClient

from pipelines.data.datasets import slice_loader
from pipelines.tracking.epochs import EpochReport
from pipelines.tracking.link import EXPERIMENT
from pipelines.tracking.tracker import Tracker
from pipelines.training.batches import NormalBatches
from pipelines.training.stages import StageTrainer
from transforms.synthetic import SyntheticAnomalies

Histories = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all runs of this file: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'runs.db'}"


def tracked(tracker: Tracker) -> Histories:
    client = MlflowClient(tracking_uri=tracker.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (run,) = [one for one in runs if one.info.run_name == tracker.run_name]
    return {
        name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


@pytest.mark.parametrize(("epochs", "interval"), [(1, 1), (3, 1), (5, 2)])
@pytest.mark.parametrize(
    ("stage", "prefix", "title", "told_of"),
    [
        ("train", "val/", "Epoch", ["loss", "flow_loss", "recon_loss"]),
        ("pretrain", "pretrain/val_", "Pre-training epoch", ["loss"]),
    ],
)
def test_each_epochs_metrics_are_tracked_at_its_step(
    stage: str,
    prefix: str,
    title: str,
    told_of: list[str],
    epochs: int,
    interval: int,
    make_scorer: Any,
    make_images: Any,
    make_slices: Any,
    database: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = Tracker(str(tmp_path), database)
    detector, data = make_scorer(with_head=True).detector, make_slices(make_images(8))
    detector.prepare(NormalBatches(data), stage)
    trainer = StageTrainer(
        detector,
        stage,
        partial(torch.optim.Adam, lr=3e-3),
        SyntheticAnomalies(),
        max_epochs=epochs,
        device=torch.device("cpu"),
        train_data_loader=slice_loader(data, 4, 0, stage),
        val_data_loader=slice_loader(data, 4),
        val_interval=interval,
        train_handlers=[EpochReport(tracker)],
    )
    measured: Histories = {}
    for engine, before in ((trainer, f"{stage}/"), (trainer.validator, prefix)):
        assert engine is not None

        @engine.on(Events.EPOCH_COMPLETED)
        def note(running: Any, before: str = before) -> None:
            for name, value in running.state.metrics.items():
                pair = (running.state.epoch, pytest.approx(float(value), nan_ok=True))
                measured.setdefault(f"{before}{name.removeprefix('val_')}", []).append(pair)

    tracker.start({})
    with caplog.at_level(logging.INFO, logger="pipelines.common.progress"):
        trainer.run()
    tracker.finish()
    found = tracked(tracker)
    assert found == measured
    validated = list(range(interval, epochs + 1, interval))
    names = [(f"{stage}/{name}", name.replace("_", " ")) for name in told_of]
    held = [(f"{prefix}{name}", f"held-out {name}".replace("_", " ")) for name in told_of]
    if stage == "pretrain":
        held.append(("pretrain/val_synthetic_auroc", "held-out synthetic auroc"))
    assert all([s for s, _ in found[name]] == list(range(1, epochs + 1)) for name, _ in names)
    assert all([step for step, _ in found[name]] == validated for name, _ in held)
    losses = [value for _, value in found[held[0][0]]]
    assert len(set(losses)) == len(losses)  # or a step could not be told from another
    told = [one.message.rpartition(" (")[0] for one in caplog.records if "poch" in one.message]
    values = {name: dict(history) for name, history in found.items()}
    assert told == [
        f"{title} {step}/{epochs}: "
        + ", ".join(
            f"{words} {values[name][step]:.4g}"
            for name, words in names + held
            if step in values[name]
        )
        for step in range(1, epochs + 1)
    ]

"""What MLflow is told of each epoch is what the log and the engines say of it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from mlflow import MlflowClient
from monai.handlers import ValidationHandler
from pipelines.training.engines import AEFlowTrainer, LikelihoodEvaluator
from pipelines.training.pretraining import PretrainEvaluator, PretrainTrainer

from networks import AEFlowLoss, AnomalyScorer
from pipelines.common.progress import EpochLine
from pipelines.data.slices import NormalSlices, slice_loader
from pipelines.tracking.link import EXPERIMENT
from pipelines.tracking.tracker import EpochTracker, Tracker
from transforms.synthetic import SyntheticAnomalies

CPU = torch.device("cpu")
Engines = tuple[Any, Any]
Histories = dict[str, list[tuple[int, float]]]


def training(scorer: AnomalyScorer, data: NormalSlices, tracker: Tracker, epochs: int) -> Engines:
    evaluator = LikelihoodEvaluator(
        scorer,
        AEFlowLoss(),
        device=CPU,
        val_data_loader=slice_loader(data, 4),
        val_handlers=[EpochTracker(tracker, "")],
    )
    trainer = AEFlowTrainer(
        scorer,
        max_epochs=epochs,
        device=CPU,
        train_data_loader=slice_loader(data, 4),
        optimizer=torch.optim.Adam(scorer.network.trainable_parameters(), lr=3e-3),
        loss_function=AEFlowLoss(),
    )
    return trainer, evaluator


def pretraining(
    scorer: AnomalyScorer, data: NormalSlices, tracker: Tracker, epochs: int
) -> Engines:
    evaluator = PretrainEvaluator(
        scorer,
        SyntheticAnomalies(),
        device=CPU,
        val_data_loader=slice_loader(data, 4),
        val_handlers=[EpochTracker(tracker, "")],
    )
    trainer = PretrainTrainer(
        scorer,
        SyntheticAnomalies(),
        device=CPU,
        max_epochs=epochs,
        train_data_loader=slice_loader(data, 4),
        learning_rate=1e-3,
        weight_decay=0.01,
    )
    return trainer, evaluator


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
    ("engines", "held_out"), [(training, "val_flow_loss"), (pretraining, "val_loss")]
)
def test_each_epochs_metrics_are_tracked_at_its_step(
    engines: Callable[..., Engines],
    held_out: str,
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
    trainer, evaluator = engines(
        make_scorer(with_head=True), make_slices(make_images(8)), tracker, epochs
    )
    ValidationHandler(interval, evaluator).attach(trainer)
    EpochTracker(tracker, "train").attach(trainer)
    EpochLine("Epoch", {"loss": "loss", held_out: "held-out"}, evaluator).attach(trainer)
    measured: Histories = {}
    for engine, prefix in ((trainer, "train_"), (evaluator, "")):

        @engine.on(Events.EPOCH_COMPLETED)
        def note(running: Any, prefix: str = prefix) -> None:
            for name, value in running.state.metrics.items():
                pair = (running.state.epoch, pytest.approx(float(value), nan_ok=True))
                measured.setdefault(f"{prefix}{name}", []).append(pair)

    tracker.start({})
    with caplog.at_level(logging.INFO, logger="pipelines.common.progress"):
        trainer.run()
    tracker.finish()
    found = tracked(tracker)
    assert found == measured
    assert [step for step, _ in found["train_loss"]] == list(range(1, epochs + 1))
    assert [step for step, _ in found[held_out]] == list(range(interval, epochs + 1, interval))
    losses, held = dict(found["train_loss"]), dict(found[held_out])
    assert len(set(held.values())) == len(held)  # or a step could not be told from another
    told = [one.message.rpartition(" (")[0] for one in caplog.records if "Epoch" in one.message]
    assert told == [
        f"Epoch {step}/{epochs}: loss {losses[step]:.4g}"
        + (f", held-out {held[step]:.4g}" if step in held else "")
        for step in range(1, epochs + 1)
    ]

"""What is told of held-out images and of each epoch."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.handlers.checkpoint_saver import CheckpointSaver
from monai.handlers.validation_handler import ValidationHandler
from sklearn.metrics import roc_auc_score
from torch import Tensor

from networks import AEFlowLoss, AnomalyScorer, Detector
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.tracking.tracker import EpochTracker
from pipelines.training.batches import NormalBatches
from pipelines.training.stages import StageEvaluator, StageTrainer
from transforms.synthetic import AnomalyRecipe, SyntheticAnomalies

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
MakeSlices = Callable[[Tensor], NormalSlices]
TrainerOf = Callable[..., StageTrainer]

CPU = torch.device("cpu")
LOSS_NAMES = ("loss", "flow_loss", "recon_loss")
WHO = ("inner", "given", "line")


class Line:
    """Logs with each epoch of a trainer what its validator tells then, as a run's history does."""

    def __init__(self, log: Any) -> None:
        self.log = log

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note)

    def _note(self, engine: Any) -> None:
        told = engine.validator.state.metrics
        self.log.log_metrics({f"line/{n}": v for n, v in told.items()}, step=engine.state.epoch)


class Log:
    """Takes notes in place of a tracking server."""

    def __init__(self) -> None:
        self.pairs: dict[str, list[tuple[int, float]]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.pairs.setdefault(name, []).append((step, float(value)))

    def fail(self) -> None:
        raise AssertionError("nothing fails here")


def evaluator_of(
    detector: Detector, dataset: NormalSlices, stage: str, batch_size: int = 3, **kwargs: Any
) -> StageEvaluator:
    return StageEvaluator(
        detector,
        stage,
        device=CPU,
        val_data_loader=slice_loader(dataset, batch_size),
        **kwargs,
    )


@pytest.mark.parametrize("cache_gigabytes", [0.0, 8.0])
def test_held_out_losses_are_means_over_images_and_change_nothing(
    make_scorer: MakeScorer, dataset: NormalSlices, cache_gigabytes: float
) -> None:
    detector = make_scorer().detector
    before = copy.deepcopy(detector.state_dict())
    found = []
    for batch_size in (8, 3):
        evaluator = evaluator_of(
            detector, dataset, "train", batch_size, cache_gigabytes=cache_gigabytes
        )
        for _ in range(2):  # the second time from the cache
            evaluator.run()
            found.append({n: float(v) for n, v in evaluator.state.metrics.items()})
    assert set(found[0]) == {f"val_{name}" for name in LOSS_NAMES}
    for one in found[1:]:
        assert one == pytest.approx(found[0], rel=1e-4)
    with torch.no_grad():
        terms = AEFlowLoss().terms(detector.network(dataset.images), dataset.images)
    assert found[0]["val_loss"] == pytest.approx(terms.total.item(), rel=1e-4)
    assert found[0]["val_flow_loss"] == pytest.approx(terms.flow.item(), rel=1e-4)
    assert all(torch.equal(v, before[n]) for n, v in detector.state_dict().items())


def test_held_out_images_tell_how_well_anomalies_are_found(
    make_scorer: MakeScorer, dataset: NormalSlices, trainer_of: TrainerOf
) -> None:
    detector = make_scorer(with_head=True).detector
    synthetic = SyntheticAnomalies(AnomalyRecipe(clean_share=0.5))
    evaluator = evaluator_of(detector, dataset, "pretrain", synthetic=synthetic, seed=1)
    trainer = trainer_of(detector, "pretrain", epochs=2)
    ValidationHandler(1, evaluator).attach(trainer)
    seen: list[dict[str, float]] = []
    evaluator.add_event_handler(
        Events.COMPLETED, lambda engine: seen.append(dict(engine.state.metrics))
    )
    trainer.run()
    assert len(seen) == 2
    for metrics in seen:
        assert set(metrics) == {"val_loss", "val_synthetic_auroc"}
        assert 0 <= metrics["val_synthetic_auroc"] <= 1
        assert float(metrics["val_loss"]) > 0
    before = copy.deepcopy(detector.state_dict())
    evaluator.run()
    again = dict(evaluator.state.metrics)
    found: list[tuple[Tensor, Tensor]] = []
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: found.append(engine.state.output["ranked"])
    )
    evaluator.run()
    scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert again["val_synthetic_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert again["val_synthetic_auroc"] == evaluator.state.metrics["val_synthetic_auroc"]
    assert all(torch.equal(v, before[n]) for n, v in detector.state_dict().items())


def test_auroc_without_both_kinds_is_not_a_number(
    make_scorer: MakeScorer, dataset: NormalSlices
) -> None:
    evaluator = evaluator_of(
        make_scorer(with_head=True).detector,
        dataset,
        "pretrain",
        synthetic=SyntheticAnomalies(AnomalyRecipe(clean_share=1.0)),
    )
    evaluator.run()
    assert math.isnan(evaluator.state.metrics["val_synthetic_auroc"])


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_what_is_tracked_of_an_epoch_is_of_that_very_epoch(
    make_scorer: MakeScorer,
    make_slices: MakeSlices,
    make_images: MakeImages,
    trainer_of: TrainerOf,
    stage: str,
    epochs: int,
) -> None:
    detector = make_scorer(with_head=True).detector
    held_out = make_slices(make_images(5, seed=9))
    log: Any = Log()
    synthetic = SyntheticAnomalies(AnomalyRecipe(clean_share=0.5))
    trainer = trainer_of(
        detector,
        stage,
        epochs,
        synthetic=synthetic,
        val_data_loader=slice_loader(held_out, 3),
        train_handlers=[EpochTracker(log, "train"), Line(log)],
    )
    assert trainer.validator is not None
    EpochTracker(log, "inner").attach(trainer.validator)
    given = evaluator_of(
        detector,
        held_out,
        stage,
        synthetic=synthetic,
        seed=1,
        val_handlers=[EpochTracker(log, "given")],
    )
    ValidationHandler(1, given).attach(trainer)
    expected: dict[str, list[tuple[int, float]]] = {}
    terms: list[dict[str, Tensor]] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: terms.append(engine.state.output["terms"])
    )

    @trainer.on(Events.EPOCH_COMPLETED)
    def measure(engine: Engine) -> None:
        fresh = evaluator_of(copy.deepcopy(detector), held_out, stage, synthetic=synthetic, seed=1)
        fresh.run()
        values = {f"{who}/{n}": v for n, v in fresh.state.metrics.items() for who in WHO}
        for name in terms[0]:
            values[f"train/{name}"] = torch.cat([one[name] for one in terms]).mean()
        terms.clear()
        for name, value in values.items():
            expected.setdefault(name, []).append((engine.state.epoch, float(value)))

    trainer.run()
    assert set(log.pairs) == set(expected)
    assert any(name.startswith("given/val_") for name in expected)
    for name, pairs in expected.items():
        assert [step for step, _ in log.pairs[name]] == list(range(1, epochs + 1)), name
        found = [value for _, value in log.pairs[name]]
        assert found == pytest.approx([value for _, value in pairs], rel=1e-4, nan_ok=True), name
    if epochs > 1:
        assert len({value for _, value in log.pairs["given/val_loss"]}) == epochs


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_monai_keeps_the_weights_of_the_lowest_loss(
    make_scorer: MakeScorer, trainer_of: TrainerOf, tmp_path: Path, stage: str
) -> None:
    detector = make_scorer(with_head=True).detector
    saver = CheckpointSaver(
        str(tmp_path), {"model": detector}, save_key_metric=True, key_metric_negative_sign=True
    )
    losses: list[float] = []
    kept: list[Tensor] = []
    trainer = trainer_of(detector, stage, 5, seed=1, train_handlers=[saver])

    @trainer.on(Events.EPOCH_COMPLETED)
    def keep(engine: Engine) -> None:
        losses.append(engine.state.metrics["loss"])
        kept.append(torch.cat([one.detach().flatten() for one in detector.parameters()]))

    for epoch, rate in enumerate((3e-3, 3e-3, 3e-3, 0.3, 0.3), start=1):  # it ends badly
        trainer.add_event_handler(
            Events.EPOCH_STARTED(once=epoch),
            lambda rate: trainer.optimizer.param_groups[0].update(lr=rate),
            rate,
        )
    trainer.run()
    best = losses.index(min(losses))
    assert 0 < best < 4
    assert trainer.state.key_metric_name == "loss"
    assert trainer.state.best_metric == pytest.approx(losses[best])
    assert trainer.state.best_metric_epoch == best + 1
    (path,) = tmp_path.iterdir()
    assert path.name == f"model_key_metric={-losses[best]:.4f}.pt"
    saved = torch.load(path, weights_only=True)
    names = [name for name, _ in detector.named_parameters()]
    assert torch.equal(torch.cat([saved[name].flatten() for name in names]), kept[best])


def test_the_validator_s_key_metric_is_its_loss(
    make_scorer: MakeScorer, dataset: NormalSlices
) -> None:
    detector = make_scorer().detector
    detector.prepare(NormalBatches(dataset), "train")
    evaluator = evaluator_of(detector, dataset, "train")
    evaluator.run()
    first = float(evaluator.state.metrics["val_loss"])
    assert evaluator.state.key_metric_name == "val_loss"
    detector.network.decoder.apply(lambda m: [p.data.zero_() for p in m.parameters()])
    evaluator.run()
    assert float(evaluator.state.metrics["val_loss"]) != first
    assert evaluator.state.best_metric == pytest.approx(
        min(first, float(evaluator.state.metrics["val_loss"]))
    )

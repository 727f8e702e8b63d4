"""Pre-training the encoder on synthetic anomalies."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from sklearn.metrics import roc_auc_score
from torch import Tensor

from networks import AnomalyScorer
from pipelines.data.slices import NormalSlices, slice_loader
from pipelines.training.pretraining import (
    PretrainEvaluator,
    PretrainTrainer,
    mask_loss,
    pretraining_wanted,
)
from transforms.augment import NormalVariation
from transforms.synthetic import AnomalyRecipe, SyntheticAnomalies

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
MakeSlices = Callable[[Tensor], NormalSlices]

CPU = torch.device("cpu")


@pytest.fixture
def dataset(make_slices: MakeSlices, make_images: MakeImages) -> NormalSlices:
    return make_slices(make_images(6))


def trainer_of(
    scorer: AnomalyScorer, dataset: NormalSlices, epochs: int = 2, **kwargs: Any
) -> PretrainTrainer:
    return PretrainTrainer(
        scorer,
        SyntheticAnomalies(variation=NormalVariation()),
        seed=1,
        device=CPU,
        max_epochs=epochs,
        train_data_loader=slice_loader(dataset, 3, 1, "pretrain"),
        learning_rate=1e-3,
        weight_decay=0.01,
        **kwargs,
    )


@pytest.mark.parametrize(
    ("epochs", "minutes", "weights", "wanted"),
    [
        (4, 0, None, True),
        (0, 2.5, None, True),
        (0, 0, None, False),
        (4, 0, "resnet18.pth", False),
        (4, 0, "", True),
    ],
)
def test_given_weights_take_its_place(
    epochs: int, minutes: float, weights: str | None, wanted: bool
) -> None:
    assert pretraining_wanted(epochs, minutes, weights) is wanted


def test_two_runs_of_one_seed_are_equal_bit_by_bit(
    make_scorer: MakeScorer, dataset: NormalSlices
) -> None:
    first, second = make_scorer(with_head=True), make_scorer(with_head=True)
    before = copy.deepcopy(first.state_dict())
    trainer_of(first, dataset).run()
    torch.manual_seed(99)
    trainer_of(second, dataset).run()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    changed = {n for n, v in first.state_dict().items() if not torch.equal(v, before[n])}
    assert any("running_mean" in name for name in changed)  # the encoder's BatchNorm learns too
    assert all(name.startswith(("network.encoder.", "network.head.", "input_")) for name in changed)
    torch.testing.assert_close(first.input_mean.flatten(), dataset.images.mean((0, 2, 3)))


def test_without_a_head_nothing_is_trained(make_scorer: MakeScorer, dataset: NormalSlices) -> None:
    scorer = make_scorer(with_head=False)
    before = copy.deepcopy(scorer.state_dict())
    trainer = trainer_of(scorer, dataset)
    trainer.run()
    assert trainer.state.epoch == 0
    assert all(torch.equal(value, before[name]) for name, value in scorer.state_dict().items())


def test_the_encoder_is_frozen_before_and_after_only(
    make_scorer: MakeScorer, dataset: NormalSlices
) -> None:
    scorer = make_scorer(with_head=True)
    trainer = trainer_of(scorer, dataset, epochs=1)
    during: list[bool] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: during.append(scorer.network.encoder.frozen)
    )
    trainer.run()
    assert during == [False, False] and scorer.network.encoder.frozen
    assert not any(p.requires_grad for p in scorer.network.encoder.parameters())
    assert not scorer.network.encoder.backbone.bn1.training


def test_the_averaged_weights_are_put_in_place(
    make_scorer: MakeScorer, dataset: NormalSlices
) -> None:
    scorer = make_scorer(with_head=True)
    trainer = trainer_of(scorer, dataset)
    kept: dict[str, dict[str, Tensor]] = {}

    @trainer.on(Events.ITERATION_COMPLETED)
    def keep() -> None:
        assert trainer.average is not None
        kept["average"] = copy.deepcopy(trainer.average.module.state_dict())
        kept["last"] = copy.deepcopy(trainer.trained_parts().state_dict())

    trainer.run()
    found = trainer.trained_parts().state_dict()
    assert all(torch.equal(value, kept["average"][name]) for name, value in found.items())
    assert not all(torch.equal(value, kept["last"][name]) for name, value in found.items())


def test_the_average_of_a_short_training_forgets_its_start(
    make_scorer: MakeScorer, dataset: NormalSlices
) -> None:
    scorer = make_scorer(with_head=True)
    trainer = trainer_of(scorer, dataset, epochs=4)  # 8 iterations
    kept: list[Tensor] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda: kept.append(
            torch.nn.utils.parameters_to_vector(trainer.trained_parts().parameters())
        ),
    )
    trainer.run()
    averaged = torch.nn.utils.parameters_to_vector(trainer.trained_parts().parameters())
    assert 0 < (averaged - kept[-1]).norm() < 0.5 * (kept[0] - kept[-1]).norm()


def test_the_learning_rate_rises_and_falls(make_scorer: MakeScorer, dataset: NormalSlices) -> None:
    trainer = trainer_of(make_scorer(with_head=True), dataset, epochs=10)  # 20 iterations
    rates: list[float] = []
    for iteration in range(1, 21):
        trainer.state.iteration, trainer.state.epoch_length = iteration, 2
        trainer._schedule(trainer)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates[0] < rates[1] == max(rates) <= 1e-3
    assert all(a > b for a, b in zip(rates[1:], rates[2:], strict=False))
    assert 0 < rates[-1] < 0.05 * rates[1]


def test_minutes_end_the_training(
    make_scorer: MakeScorer, dataset: NormalSlices, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def tick() -> float:
        now[0] += 10.0
        return now[0]

    monkeypatch.setattr("pipelines.training.pretraining.time.monotonic", tick)
    scorer = make_scorer(with_head=True)
    trainer = trainer_of(scorer, dataset, epochs=0, minutes=0.5)
    trainer.run()
    assert 1 <= trainer.state.iteration <= 5
    assert scorer.network.encoder.frozen and trainer.average is None


def test_held_out_images_tell_how_well_anomalies_are_found(
    make_scorer: MakeScorer, dataset: NormalSlices
) -> None:
    scorer = make_scorer(with_head=True)
    trainer = trainer_of(scorer, dataset, epochs=2, val_data_loader=slice_loader(dataset, 3))
    evaluator = trainer.validator
    assert evaluator is not None
    evaluator.synthetic = SyntheticAnomalies(AnomalyRecipe(clean_share=0.5))
    seen: list[dict[str, float]] = []
    evaluator.add_event_handler(
        Events.COMPLETED, lambda engine: seen.append(dict(engine.state.metrics))
    )
    trainer.run()
    assert len(seen) == 2
    for metrics in seen:
        assert 0 <= metrics["val_synthetic_auroc"] <= 1
        assert float(metrics["val_loss"]) > 0
    before = copy.deepcopy(scorer.state_dict())
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
    assert all(torch.equal(v, before[n]) for n, v in scorer.state_dict().items())


def test_auroc_without_both_kinds_is_not_a_number(
    make_scorer: MakeScorer, dataset: NormalSlices
) -> None:
    evaluator = PretrainEvaluator(
        make_scorer(with_head=True),
        SyntheticAnomalies(AnomalyRecipe(clean_share=1.0)),
        device=CPU,
        val_data_loader=slice_loader(dataset, 3),
    )
    evaluator.run()
    assert math.isnan(evaluator.state.metrics["val_synthetic_auroc"])


def test_the_mask_is_compared_at_the_heads_resolution() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :4, :8] = 1  # half of the first of four positions
    logits = torch.zeros(1, 1, 2, 2)
    assert mask_loss(logits, mask).item() == pytest.approx(math.log(2))
    sure = torch.tensor([[[[0.0, -20.0], [-20.0, -20.0]]]])
    assert mask_loss(sure, mask).item() == pytest.approx(math.log(2) / 4, rel=1e-4)

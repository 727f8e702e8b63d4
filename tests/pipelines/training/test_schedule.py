"""What runs beside the steps of a stage: averaged weights, learning rate, and the clock."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor

from networks import AnomalyScorer
from pipelines.training.stages import StageTrainer

MakeScorer = Callable[..., AnomalyScorer]
TrainerOf = Callable[..., StageTrainer]


def flat(parameters: Any) -> Tensor:
    return torch.cat([one.detach().flatten() for one in parameters])


def test_the_averaged_weights_are_put_in_place(
    make_scorer: MakeScorer, trainer_of: TrainerOf
) -> None:
    detector = make_scorer(with_head=True).detector
    trainer = trainer_of(detector, "pretrain", average=True)
    kept: dict[str, dict[str, Tensor]] = {}

    @trainer.on(Events.ITERATION_COMPLETED)
    def keep() -> None:
        assert trainer.average is not None
        kept["average"] = copy.deepcopy(trainer.average.module.state_dict())
        kept["last"] = copy.deepcopy(trainer.trained.state_dict())

    trainer.run()
    found = trainer.trained.state_dict()
    learnt = [*detector.network.encoder.parameters(), *detector.network.head.parameters()]
    assert [id(p) for p in trainer.trained] == [id(p) for p in learnt]
    assert all(torch.equal(value, kept["average"][name]) for name, value in found.items())
    assert not all(torch.equal(value, kept["last"][name]) for name, value in found.items())
    assert trainer.average is None


def test_batchnorm_is_measured_anew_under_the_averaged_weights(
    make_scorer: MakeScorer, trainer_of: TrainerOf
) -> None:
    detector = make_scorer(with_head=True).detector
    trainer = trainer_of(detector, "pretrain", epochs=3, average=True)
    trainer.run()
    found = {n: v.clone() for n, v in detector.named_buffers() if "running" in n}
    first = detector.network.encoder.backbone.bn1
    seen: list[Tensor] = []
    first.register_forward_hook(lambda module, given, made: seen.append(given[0].detach()))
    detector.train()
    for number, batch in enumerate(trainer.data_loader):
        inputs, mask = trainer.step.inputs(trainer, batch, "pretrain-statistics", number)
        assert mask is not None and mask.any()
        with torch.no_grad():
            detector(inputs, stage="pretrain")
    means = torch.stack([one.mean((0, 2, 3)) for one in seen]).mean(dim=0)
    torch.testing.assert_close(found["network.encoder.backbone.bn1.running_mean"], means)
    assert first.momentum == 0.1


def test_a_frozen_encoder_keeps_its_statistics_when_weights_are_averaged(
    make_scorer: MakeScorer, trainer_of: TrainerOf
) -> None:
    detector = make_scorer().detector
    before = copy.deepcopy(detector.network.encoder)
    trainer_of(detector, average=True).run()
    other = detector.network.encoder.state_dict()
    assert all(torch.equal(value, other[n]) for n, value in before.state_dict().items())


def test_without_an_average_the_last_weights_stay(
    make_scorer: MakeScorer, trainer_of: TrainerOf
) -> None:
    trainer = trainer_of(make_scorer(with_head=True).detector, "pretrain")
    kept: list[Tensor] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: kept.append(flat(trainer.trained.parameters()))
    )
    trainer.run()
    assert torch.equal(flat(trainer.trained.parameters()), kept[-1])


def test_the_average_of_a_short_training_forgets_its_start(
    make_scorer: MakeScorer, trainer_of: TrainerOf
) -> None:
    trainer = trainer_of(
        make_scorer(with_head=True).detector,
        "pretrain",
        epochs=4,  # 8 iterations
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        average=True,
        cosine=True,
    )
    kept: list[Tensor] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: kept.append(flat(trainer.trained.parameters()))
    )
    trainer.run()
    averaged = flat(trainer.trained.parameters())
    assert 0 < (averaged - kept[-1]).norm() < 0.5 * (kept[0] - kept[-1]).norm()


@pytest.mark.parametrize("cosine", [True, False])
def test_the_learning_rate_rises_and_falls_if_asked(
    make_scorer: MakeScorer, trainer_of: TrainerOf, cosine: bool
) -> None:
    trainer = trainer_of(
        make_scorer(with_head=True).detector,
        "pretrain",
        epochs=10,  # 20 iterations
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        cosine=cosine,
    )
    rates: list[float] = []
    for iteration in range(1, 21):
        trainer.state.iteration, trainer.state.epoch_length = iteration, 2
        trainer._schedule(trainer)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    if not cosine:
        assert rates == [1e-3] * 20
        return
    assert rates[0] < rates[1] == max(rates) <= 1e-3
    assert all(a > b for a, b in zip(rates[1:], rates[2:], strict=False))
    assert 0 < rates[-1] < 0.05 * rates[1]


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_minutes_end_the_training(
    make_scorer: MakeScorer, trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    now = [0.0]

    def tick() -> float:
        now[0] += 10.0
        return now[0]

    monkeypatch.setattr("pipelines.training.stages.time.monotonic", tick)
    trainer = trainer_of(
        make_scorer(with_head=True).detector, stage, epochs=1, minutes=0.5, average=True
    )
    trainer.run()
    assert 1 <= trainer.state.iteration <= 5 and trainer.state.max_epochs > 1000
    assert trainer.average is None

"""A whole training of a detector."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor

from networks import AnomalyScorer
from networks.detectors.aeflow import AEFlowDetector
from pipelines.data.datasets import NormalSlices
from pipelines.training.sequence import StagedTraining
from pipelines.training.stages import StageTrainer

MakeScorer = Callable[..., AnomalyScorer]
TrainerOf = Callable[..., StageTrainer]


def trained(
    detector: Any, trainers: list[StageTrainer], dataset: NormalSlices
) -> list[StageTrainer]:
    training = StagedTraining(detector, trainers, dataset, "cpu")
    training.run()
    return training.trainers


def test_stages_come_in_the_order_of_the_detector(
    make_scorer: MakeScorer, dataset: NormalSlices, trainer_of: TrainerOf
) -> None:
    detector = make_scorer(with_head=True).detector
    order: list[str] = []
    frozen: list[bool] = []
    prepare = detector.prepare

    def prepared(batches: Any, stage: str | None) -> None:
        order.append(f"prepare {stage}")
        prepare(batches, stage)

    detector.prepare = prepared
    trainers = [
        trainer_of(detector, stage, epochs=1, prepared=False) for stage in ("train", "pretrain")
    ]
    for trainer in trainers:
        trainer.add_event_handler(Events.STARTED, lambda engine: order.append(engine.phase))
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: frozen.append(detector.network.encoder.frozen)
        )
    assert trained(detector, trainers, dataset) == trainers[::-1]
    assert order == ["prepare pretrain", "pretrain", "prepare train", "train", "prepare None"]
    assert frozen == [False, False, True, True] and detector.network.encoder.frozen
    assert not any(p.requires_grad for p in detector.network.encoder.parameters())
    assert not detector.network.encoder.backbone.bn1.training


def test_a_budget_is_shared_by_the_stages_and_not_used_up_by_compiling(
    make_scorer: MakeScorer,
    dataset: NormalSlices,
    trainer_of: TrainerOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pays(wanted: str, device: torch.device, images: int, repaid: int) -> bool:
        assert images == 0
        return False

    monkeypatch.setattr("pipelines.training.stages.compiling_pays", pays)
    detector = make_scorer(with_head=True).detector
    epochs = {"pretrain": 6, "train": 2}
    trainers = [trainer_of(detector, s, epochs=n, prepared=False) for s, n in epochs.items()]
    training = StagedTraining(detector, trainers, dataset, "cpu", minutes=2e-4)
    assert [trainer.minutes for trainer in trainers] == pytest.approx([1.5e-4, 0.5e-4])
    training.run()
    assert all(0 < trainer.state.epoch < trainer.state.max_epochs for trainer in trainers)


def test_pretraining_teaches_the_encoder_and_training_leaves_it(
    make_scorer: MakeScorer, dataset: NormalSlices, trainer_of: TrainerOf
) -> None:
    detector = make_scorer(with_head=True).detector
    kept: dict[str, dict[str, Tensor]] = {"begin": copy.deepcopy(detector.state_dict())}
    trainers = [
        trainer_of(detector, stage, prepared=False, average=stage == "pretrain")
        for stage in ("pretrain", "train")
    ]
    trainers[1].add_event_handler(
        Events.STARTED, lambda: kept.update(between=copy.deepcopy(detector.state_dict()))
    )
    trained(detector, trainers, dataset)
    kept["end"] = detector.state_dict()

    def changed(first: str, second: str, part: str) -> bool:
        names = [name for name in kept[first] if name.startswith(f"network.{part}.")]
        return any(not torch.equal(kept[first][name], kept[second][name]) for name in names)

    for part in ("encoder", "head"):
        assert changed("begin", "between", part) and not changed("between", "end", part)
    for part in ("flows", "decoder"):
        assert changed("between", "end", part)
    assert not changed("begin", "between", "decoder")


def test_input_statistics_and_actnorms_come_from_the_data(
    make_scorer: MakeScorer, dataset: NormalSlices, trainer_of: TrainerOf
) -> None:
    detector = make_scorer().detector
    trainer = trainer_of(detector, prepared=False)
    found: list[Tensor] = []

    @trainer.on(Events.STARTED)
    def measure() -> None:
        features = detector.network.encode(detector.normalize(dataset.images))
        found.append(detector.network.flows[0].steps[0].actnorm(features[0])[0].detach())

    trained(detector, [trainer], dataset)
    torch.testing.assert_close(detector.input_mean.flatten(), dataset.images.mean((0, 2, 3)))
    torch.testing.assert_close(detector.input_std.flatten(), dataset.images.std((0, 2, 3)))
    torch.testing.assert_close(found[0].mean((0, 2, 3)), torch.zeros(128), atol=1e-3, rtol=0)


def test_a_stage_that_the_detector_lacks_stays_idle(
    make_scorer: MakeScorer, dataset: NormalSlices, trainer_of: TrainerOf
) -> None:
    class Handler:
        def attach(self, engine: Any) -> None:
            raise AssertionError("an idle trainer has no handlers")

    detector = make_scorer().detector
    idle = trainer_of(detector, "pretrain", prepared=False, train_handlers=[Handler()])
    trainer = trainer_of(detector, epochs=1, prepared=False)
    assert trained(detector, [idle, trainer], dataset) == [trainer]
    assert idle.state.iteration == 0 and trainer.state.iteration == 2
    with pytest.raises(RuntimeError, match="no such stage"):
        idle.run()


def test_a_stage_without_a_trainer_is_told(
    make_scorer: MakeScorer, dataset: NormalSlices, trainer_of: TrainerOf
) -> None:
    detector = make_scorer(with_head=True).detector
    with pytest.raises(ValueError, match=r"stages \['pretrain'\] without a trainer"):
        StagedTraining(detector, [trainer_of(detector)], dataset, "cpu")


def test_a_detector_that_is_only_fitted_needs_no_trainer(
    make_scorer: MakeScorer, dataset: NormalSlices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AEFlowDetector, "stages", ())
    detector = make_scorer().detector
    assert trained(detector, [], dataset) == []
    torch.testing.assert_close(detector.input_mean.flatten(), dataset.images.mean((0, 2, 3)))

"""The phases of a training."""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from networks import DETECTORS, AnomalyScorer, Detector, Inputs, Stage
from pipelines.common import derive_seed
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.training.batches import NormalBatches
from pipelines.training.stages import StageTrainer
from transforms.synthetic import SyntheticAnomalies

MakeScorer = Callable[..., AnomalyScorer]
TrainerOf = Callable[..., StageTrainer]

LOSS_NAMES = ("loss", "flow_loss", "recon_loss")


class Order:
    """Notes which images each epoch sees, and the loss."""

    def __init__(self) -> None:
        self.epochs: list[list[int]] = []
        self.losses: list[dict[str, float]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: self.epochs.append([]))
        engine.add_event_handler(
            Events.ITERATION_STARTED,
            lambda running: self.epochs[-1].extend(running.state.batch["index"].tolist()),
        )
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note)

    def _note(self, engine: Engine) -> None:
        self.losses.append({n: float(v) for n, v in engine.state.metrics.items()})


def flat(parameters: Any) -> Tensor:
    return torch.cat([one.detach().flatten() for one in parameters])


def assert_equal(first: nn.Module, second: nn.Module) -> None:
    other = second.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_the_loss_falls(make_scorer: MakeScorer, trainer_of: TrainerOf) -> None:
    order = Order()
    trainer_of(make_scorer().detector, epochs=8, train_handlers=[order]).run()
    assert set(order.losses[0]) == set(LOSS_NAMES)
    for name in LOSS_NAMES:
        assert order.losses[-1][name] < order.losses[0][name], name
    last = order.losses[-1]
    assert last["loss"] == pytest.approx(0.5 * last["flow_loss"] + 0.5 * last["recon_loss"])


def test_a_method_trains_on_patches_of_volumes(
    make_slices: Callable[[Tensor], NormalSlices], trainer_of: TrainerOf
) -> None:
    """Deep SVDD's centre has an axis less than the weights of its convolutions."""
    patches = make_slices(torch.rand(4, 1, 16, 32, 32))
    detector = DETECTORS["deep_svdd"](in_channels=1, size=8, spatial_dims=3)
    detector.prepare(NormalBatches(patches), "train")
    before = flat(detector.parameters())
    loader = slice_loader(patches, 4, 1, "train")
    trainer_of(detector, epochs=1, prepared=False, train_data_loader=loader).run()
    assert not torch.equal(flat(detector.parameters()), before)


def test_a_frozen_encoder_does_not_change(make_scorer: MakeScorer, trainer_of: TrainerOf) -> None:
    network = make_scorer(with_head=True).detector
    before = copy.deepcopy(network.network.state_dict())
    trainer_of(network, cache_gigabytes=0).run()
    after = network.network.state_dict()
    for name, value in before.items():
        still = name.startswith(("encoder.", "head.")) or "permutation" in name
        assert torch.equal(value, after[name]) == still or not value.any(), name


@pytest.mark.parametrize("num_workers", [0, 2])
def test_cached_features_and_workers_change_nothing(
    make_scorer: MakeScorer, trainer_of: TrainerOf, num_workers: int
) -> None:
    plain, cached = make_scorer().detector, make_scorer().detector
    without = trainer_of(plain, cache_gigabytes=0)
    without.run()
    trainer = trainer_of(cached, num_workers=num_workers)
    trainer.run()
    assert without.step.cache is None and trainer.step.cache is not None
    assert len(trainer.step.cache.known) == 8 and trainer.step.cache.known.all()
    # Features of an image may differ in the last bit with the batch that they come in.
    other = cached.state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, other[name], atol=1e-4, rtol=1e-4)


def test_an_encoder_that_learns_is_not_cached(
    make_scorer: MakeScorer, dataset: NormalSlices, trainer_of: TrainerOf
) -> None:
    detector = make_scorer(with_head=True).detector
    trainer = trainer_of(detector, "pretrain", val_data_loader=slice_loader(dataset, 4))
    assert trainer.step.cache is None and trainer.validator is not None
    assert trainer.validator.step.cache is None
    before = flat(detector.network.encoder.parameters())
    trainer.run()
    assert not torch.equal(flat(detector.network.encoder.parameters()), before)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_trains_one_side_alone(
    make_scorer: MakeScorer, trainer_of: TrainerOf, alpha: float
) -> None:
    network = (detector := make_scorer(alpha=alpha).detector).network
    decoder = copy.deepcopy(network.decoder.state_dict())
    order = Order()
    trainer_of(detector, epochs=4, train_handlers=[order]).run()
    used = "flow_loss" if alpha else "recon_loss"
    assert order.losses[-1]["loss"] == pytest.approx(order.losses[-1][used])
    assert order.losses[-1][used] < order.losses[0][used]
    same = [torch.equal(v, decoder[n]) for n, v in network.decoder.state_dict().items()]
    assert all(same) if alpha else not any(same)


def test_two_runs_are_equal_whatever_the_global_generator(
    make_scorer: MakeScorer, trainer_of: TrainerOf
) -> None:
    first, second = make_scorer().detector, make_scorer().detector
    trainer_of(first).run()
    torch.manual_seed(99)
    trainer_of(second).run()
    assert_equal(first, second)


def test_two_pretrainings_of_one_seed_are_equal_bit_by_bit(
    make_scorer: MakeScorer, dataset: NormalSlices, trainer_of: TrainerOf
) -> None:
    first, second = (make_scorer(with_head=True).detector for _ in range(2))
    before = copy.deepcopy(first.state_dict())
    trainer_of(first, "pretrain", average=True, cosine=True).run()
    torch.manual_seed(99)
    trainer_of(second, "pretrain", average=True, cosine=True).run()
    assert_equal(first, second)
    changed = {n for n, v in first.state_dict().items() if not torch.equal(v, before[n])}
    assert any("running_mean" in name for name in changed)  # the encoder's BatchNorm learns too
    assert all(name.startswith(("network.encoder.", "network.head.", "input_")) for name in changed)
    torch.testing.assert_close(first.input_mean.flatten(), dataset.images.mean((0, 2, 3)))


def test_a_resumed_run_equals_an_uninterrupted_one(
    make_scorer: MakeScorer, trainer_of: TrainerOf
) -> None:
    straight, parts = make_scorer().detector, make_scorer().detector
    order, first, rest = Order(), Order(), Order()
    trainer_of(straight, epochs=3, train_handlers=[order]).run()
    begun = trainer_of(parts, epochs=2, train_handlers=[first])
    begun.run()
    resumed = trainer_of(parts, epochs=3, train_handlers=[rest], prepared=False)
    resumed.optimizer.load_state_dict(begun.optimizer.state_dict())
    resumed.load_state_dict({"epoch_length": 2, "max_epochs": 3, "iteration": 4})
    resumed.run()
    assert first.epochs + rest.epochs == order.epochs
    assert len({tuple(epoch) for epoch in order.epochs}) == 3
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(value, parts.state_dict()[name], atol=1e-5, rtol=1e-4)


class Watched:
    """Notes the anomalies that are made."""

    def __init__(self) -> None:
        self.synthetic = SyntheticAnomalies()
        self.made: list[Tensor] = []
        self.seeds: list[int] = []

    def __call__(
        self, image: Tensor, body: Tensor, region: Tensor, source: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        self.seeds.append(source.initial_seed())
        changed, mask = self.synthetic(image, body, region, source)
        self.made.append(changed - image)
        return changed, mask


def test_anomalies_are_those_of_seed_epoch_and_iteration(
    make_scorer: MakeScorer, trainer_of: TrainerOf
) -> None:
    def run(seed: int, epochs: int, done: int = 0) -> Watched:
        watched = Watched()
        detector = make_scorer(with_head=True).detector
        how: dict[str, Any] = {"seed": seed, "synthetic": watched}
        trainer = trainer_of(detector, "pretrain", epochs, **how)
        if done:
            trainer.load_state_dict(
                {"epoch_length": 2, "max_epochs": epochs, "iteration": 2 * done}
            )
        trainer.run()
        return watched

    first = run(1, 3)
    whole, places = first.made, [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6)]
    assert first.seeds == [derive_seed(1, "pretrain", *place) for place in places]
    for later, found in enumerate(run(1, 3, done=2).made, start=4):  # without the history
        assert torch.equal(found, whole[later])
    for one, other in zip(whole, run(2, 3).made, strict=True):
        assert not torch.equal(one, other)
    assert len({float(one.abs().sum()) for one in whole}) == 6


def test_a_trainer_needs_no_handlers(
    make_scorer: MakeScorer, dataset: NormalSlices, trainer_of: TrainerOf
) -> None:
    trainer = StageTrainer(
        make_scorer().detector,
        "train",
        torch.optim.Adam,
        device="cpu",
        train_data_loader=slice_loader(dataset, 8),
    )
    trainer.run()
    assert set(trainer.state.metrics) == set(LOSS_NAMES) and trainer.validator is None
    assert trainer.state.epoch == 1


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.01])
def test_gradients_are_clipped(
    make_scorer: MakeScorer, dataset: NormalSlices, trainer_of: TrainerOf, max_grad_norm: float
) -> None:
    detector = make_scorer().detector
    trainer = trainer_of(
        detector,
        epochs=1,
        optimizer=partial(torch.optim.SGD, lr=1.0),
        max_grad_norm=max_grad_norm,
        train_data_loader=slice_loader(dataset, 8),  # one step
    )
    before = flat(trainer.trained.parameters())
    trainer.run()
    moved = float((flat(trainer.trained.parameters()) - before).norm())
    if max_grad_norm:
        assert moved == pytest.approx(max_grad_norm, rel=1e-2)
    else:
        assert moved > 0.1


class Rivals(Detector):
    """Two numbers, each pulled to a goal of its own by a loss that holds the other, too."""

    def __init__(self) -> None:
        super().__init__(1)
        self.first = nn.Parameter(torch.tensor(0.0))
        self.second = nn.Parameter(torch.tensor(0.0))

    @property
    def stages(self) -> tuple[Stage, ...]:
        groups = {"one": [self.first], "two": [self.second]}
        return (Stage("train", groups, ("one", "two", "both")),)

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> Tensor:
        return self.first + self.second

    def loss(
        self, output: Tensor, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        return {"one": 3.0 * output, "two": -0.5 * output, "both": output.square()}


def test_each_term_moves_its_own_group_with_its_own_optimizer(
    dataset: NormalSlices, trainer_of: TrainerOf
) -> None:
    for bound, expected in ((0.0, (-3.0, 0.5)), (1.0, (-1.0, 0.5))):
        rivals = Rivals()
        trainer = trainer_of(
            rivals,
            epochs=1,
            optimizer=partial(torch.optim.SGD, lr=1.0),
            max_grad_norm=bound,
            train_data_loader=slice_loader(dataset, 8),
            prepared=False,
        )
        assert list(trainer.optimizers) == ["one", "two"]
        trainer.run()
        assert (rivals.first.item(), rivals.second.item()) == pytest.approx(expected, rel=1e-4)
        assert set(trainer.state.metrics) == {"one", "two", "both"}


def test_anomalies_lie_in_the_region_of_their_image(
    make_scorer: MakeScorer, dataset: NormalSlices, trainer_of: TrainerOf
) -> None:
    asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(image: Tensor, body: Tensor, region: Tensor, source: Any) -> tuple[Tensor, Tensor]:
        asked.append((image, body, region))
        return image, torch.zeros_like(image)

    dataset.context["region"] = dataset.images > 0.5
    trainer_of(make_scorer(with_head=True).detector, "pretrain", 1, synthetic=watch).run()
    assert len(asked) == 2
    for image, body, region in asked:
        assert torch.equal(region, image > 0.5) and torch.equal(body, image > 0)


def test_a_synthetic_stage_asks_for_what_makes_anomalies(
    make_scorer: MakeScorer, trainer_of: TrainerOf
) -> None:
    trainer = trainer_of(make_scorer(with_head=True).detector, "pretrain", synthetic=None)
    with pytest.raises(RuntimeError, match="stage pretrain: give what makes the anomalies"):
        trainer.run()


@pytest.mark.parametrize("pays", [True, False])
def test_mixed_precision_is_taken_where_it_pays(
    pays: bool,
    make_scorer: MakeScorer,
    dataset: NormalSlices,
    trainer_of: TrainerOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipelines.training.stages.pays_bfloat16", lambda *_: pays)
    mixed, plain = make_scorer().detector, make_scorer().detector
    trainer = trainer_of(mixed, amp=True, val_data_loader=slice_loader(dataset, 4))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?s).*GradScaler is enabled, but CUDA")
        trainer.run()
    trainer_of(plain).run()
    same = [torch.equal(a, b) for a, b in zip(mixed.parameters(), plain.parameters(), strict=True)]
    assert all(same) != pays
    assert trainer.amp is pays and trainer.validator is not None
    assert trainer.validator.amp is pays
    kept = [one.dtype for one in trainer.step.cache.features]  # type: ignore[union-attr]
    assert kept == [torch.bfloat16 if pays else torch.float32] * len(kept)

"""Training flow and decoder."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from networks import AEFlowLoss, AnomalyScorer
from pipelines.data.slices import NormalSlices, slice_loader
from pipelines.training.engines import LOSS_NAMES, AEFlowTrainer, FeatureCache, LikelihoodEvaluator

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
MakeSlices = Callable[[Tensor], NormalSlices]


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
        self.losses.append({n: float(engine.state.metrics[n]) for n in LOSS_NAMES})


def trainer_of(
    scorer: AnomalyScorer,
    dataset: NormalSlices,
    epochs: int = 2,
    alpha: float = 0.5,
    num_workers: int = 0,
    **kwargs: Any,
) -> tuple[AEFlowTrainer, Order]:
    order = Order()
    trainer = AEFlowTrainer(
        scorer,
        max_epochs=epochs,
        device=torch.device("cpu"),
        train_data_loader=slice_loader(
            dataset, 4, seed=1, phase="train", min_samples=8, num_workers=num_workers
        ),
        optimizer=torch.optim.Adam(scorer.network.trainable_parameters(), lr=3e-3),
        loss_function=AEFlowLoss(alpha),
        train_handlers=[order],
        **kwargs,
    )
    return trainer, order


def assert_equal(first: AnomalyScorer, second: AnomalyScorer) -> None:
    other = second.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


@pytest.fixture
def dataset(make_slices: MakeSlices, make_images: MakeImages) -> NormalSlices:
    return make_slices(make_images(8))


def test_the_loss_falls(make_scorer: MakeScorer, dataset: NormalSlices) -> None:
    trainer, order = trainer_of(make_scorer(), dataset, epochs=8)
    trainer.run()
    for name in LOSS_NAMES:
        assert order.losses[-1][name] < order.losses[0][name], name
    last = order.losses[-1]
    assert last["loss"] == pytest.approx(0.5 * last["flow_loss"] + 0.5 * last["recon_loss"])


def test_a_frozen_encoder_does_not_change(make_scorer: MakeScorer, dataset: NormalSlices) -> None:
    scorer = make_scorer(with_head=True)
    before = copy.deepcopy(scorer.network.state_dict())
    trainer_of(scorer, dataset, cache_gigabytes=0)[0].run()
    after = scorer.network.state_dict()
    for name, value in before.items():
        still = name.startswith(("encoder.", "head.")) or "permutation" in name
        assert torch.equal(value, after[name]) == still or not value.any(), name


def test_input_statistics_and_actnorms_come_from_the_data(
    make_scorer: MakeScorer, dataset: NormalSlices
) -> None:
    scorer = make_scorer()
    trainer, _ = trainer_of(scorer, dataset)
    trainer._prepare(trainer)
    torch.testing.assert_close(scorer.input_mean.flatten(), dataset.images.mean((0, 2, 3)))
    torch.testing.assert_close(scorer.input_std.flatten(), dataset.images.std((0, 2, 3)))
    features = scorer.network.encode(scorer.normalize(dataset.images))
    first = scorer.network.flows[0].steps[0].actnorm(features[0])[0]  # type: ignore[index,union-attr]
    torch.testing.assert_close(first.mean((0, 2, 3)), torch.zeros(128), atol=1e-3, rtol=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_cached_features_and_workers_change_nothing(
    make_scorer: MakeScorer, dataset: NormalSlices, num_workers: int
) -> None:
    plain, cached = make_scorer(), make_scorer()
    trainer_of(plain, dataset, cache_gigabytes=0)[0].run()
    trainer, _ = trainer_of(cached, dataset, num_workers=num_workers)
    trainer.run()
    assert trainer.cache is not None and trainer.cache.known is not None
    assert trainer.cache.known.all()
    # Features of an image may differ in the last bit with the batch that they come in.
    other = cached.state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, other[name], atol=1e-4, rtol=1e-4)


def test_the_cache_encodes_each_image_once(
    make_scorer: MakeScorer, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, images = make_scorer(), make_images(4)
    counted: list[int] = []
    encode = scorer.network.encode

    def count(image: Tensor) -> list[Tensor]:
        counted.append(len(image))
        return encode(image)

    monkeypatch.setattr(scorer.network, "encode", count)
    cache = FeatureCache(scorer)
    index = torch.tensor([2, 0])
    first = cache.encode(images[index], index, 4)
    again = cache.encode(images[index.flip(0)], index.flip(0), 4)
    assert counted == [2]
    torch.testing.assert_close(again[0], first[0].flip(0))
    cache.encode(images, torch.arange(4), 4)  # only some are known
    assert counted == [2, 4]
    small = FeatureCache(scorer, max_gigabytes=1e-6)
    for _ in range(2):
        small.encode(images, torch.arange(4), 4)
    assert counted == [2, 4, 4, 4] and small.features is None


def test_an_encoder_that_learns_is_not_cached(
    make_scorer: MakeScorer, make_images: MakeImages
) -> None:
    scorer = make_scorer()
    scorer.network.encoder.unfreeze()
    cache = FeatureCache(scorer)
    features = cache.encode(make_images(2), torch.arange(2), 2)
    assert cache.features is None and features[0].requires_grad


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_trains_one_side_alone(
    make_scorer: MakeScorer, dataset: NormalSlices, alpha: float
) -> None:
    scorer = make_scorer()
    decoder = copy.deepcopy(scorer.network.decoder.state_dict())
    trainer, order = trainer_of(scorer, dataset, epochs=4, alpha=alpha)
    trainer.run()
    used = "flow_loss" if alpha else "recon_loss"
    assert order.losses[-1]["loss"] == pytest.approx(order.losses[-1][used])
    assert order.losses[-1][used] < order.losses[0][used]
    same = [torch.equal(v, decoder[n]) for n, v in scorer.network.decoder.state_dict().items()]
    assert all(same) if alpha else not any(same)


def test_two_runs_are_equal_whatever_the_global_generator(
    make_scorer: MakeScorer, dataset: NormalSlices
) -> None:
    first, second = make_scorer(), make_scorer()
    trainer_of(first, dataset)[0].run()
    torch.manual_seed(99)
    trainer_of(second, dataset)[0].run()
    assert_equal(first, second)


def test_a_resumed_run_equals_an_uninterrupted_one(
    make_scorer: MakeScorer, dataset: NormalSlices
) -> None:
    straight, parts = make_scorer(), make_scorer()
    _, order = (whole := trainer_of(straight, dataset, epochs=3))
    whole[0].run()
    begun, first = trainer_of(parts, dataset, epochs=2)
    begun.run()
    resumed, rest = trainer_of(parts, dataset, epochs=3)
    resumed.optimizer.load_state_dict(begun.optimizer.state_dict())
    resumed.load_state_dict({"epoch_length": 2, "max_epochs": 3, "iteration": 4})
    resumed.run()
    assert first.epochs + rest.epochs == order.epochs
    assert len({tuple(epoch) for epoch in order.epochs}) == 3
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(value, parts.state_dict()[name], atol=1e-5, rtol=1e-4)


def test_a_trainer_needs_no_handlers(make_scorer: MakeScorer, dataset: NormalSlices) -> None:
    scorer = make_scorer()
    trainer = AEFlowTrainer(
        scorer,
        max_epochs=1,
        device="cpu",
        train_data_loader=slice_loader(dataset, 8),
        optimizer=torch.optim.Adam(scorer.network.trainable_parameters()),
        loss_function=AEFlowLoss(),
    )
    trainer.run()
    assert set(trainer.state.metrics) == set(LOSS_NAMES)


@pytest.mark.parametrize("cache_gigabytes", [0.0, 8.0])
def test_held_out_losses_are_means_over_images_and_change_nothing(
    make_scorer: MakeScorer, dataset: NormalSlices, cache_gigabytes: float
) -> None:
    scorer = make_scorer()
    before = copy.deepcopy(scorer.state_dict())
    found = []
    for batch_size in (8, 3):
        evaluator = LikelihoodEvaluator(
            scorer,
            AEFlowLoss(),
            cache_gigabytes,
            device=torch.device("cpu"),
            val_data_loader=slice_loader(dataset, batch_size),
        )
        for _ in range(2):  # the second time from the cache
            evaluator.run()
            found.append({n: float(v) for n, v in evaluator.state.metrics.items()})
    assert set(found[0]) == {f"val_{name}" for name in LOSS_NAMES}
    for one in found[1:]:
        assert one == pytest.approx(found[0], rel=1e-4)
    with torch.no_grad():
        terms = AEFlowLoss().terms(scorer.network(dataset.images), dataset.images)
    assert found[0]["val_loss"] == pytest.approx(terms.total.item(), rel=1e-4)
    assert all(torch.equal(v, before[n]) for n, v in scorer.state_dict().items())

"""Steps that a GPU replays."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor

from networks import AnomalyScorer
from networks.recorded import WARM_UP
from pipelines.data import NormalSlices, slice_loader
from pipelines.training import NormalBatches
from pipelines.training.replay import Replay
from pipelines.training.stages import StageTrainer
from pipelines.training.step import Stepper

MakeScorer = Callable[..., AnomalyScorer]
TrainerOf = Callable[..., StageTrainer]


@pytest.mark.parametrize(
    ("stage", "dims", "labelled", "expected"),
    [
        ("pretrain", 2, None, True),
        ("pretrain", 3, None, False),
        ("pretrain", 2, [0], False),
        ("train", 2, None, False),
    ],
)
def test_pretraining_on_images_is_replayed(
    make_scorer: MakeScorer, stage: str, dims: int, labelled: object, expected: bool
) -> None:
    patch = {3: (16, 16, 16)}.get(dims)
    detector = make_scorer(with_head=True, patch_size=patch).detector
    assert Stepper(detector, stage, None, 0, 0.0, labelled).replayable is expected  # type: ignore[arg-type]


def test_a_cpu_replays_nothing(make_scorer: MakeScorer, trainer_of: TrainerOf) -> None:
    trainer = trainer_of(make_scorer(with_head=True).detector, "pretrain", compiling="always")
    seen: list[object] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(trainer.replay))
    trainer.run()
    assert seen and set(seen) == {None}


def test_a_replayed_step_is_that_of_its_batch_and_seed(fake_graphs: list[Any]) -> None:
    weight = torch.nn.Parameter(torch.ones(3))

    def step(batch: Mapping[str, Tensor], source: torch.Generator) -> dict[str, Tensor]:
        weight.grad = None
        loss = (weight * batch["image"] * torch.rand(3, generator=source)).sum()
        loss.backward()
        return {"loss": loss.detach()}

    replay = Replay(step, [weight], torch.device("cpu"))
    for seed, count in enumerate((2, 2, 2, 2, 1, 2, 1, 2)):
        batch = {"image": torch.full((count, 3), float(seed)), "name": torch.ones(1, device="meta")}
        found = float(replay(batch, seed)["loss"])
        gradient = weight.grad
        assert gradient is not None
        assert not fake_graphs or count == 1 or gradient is fake_graphs[0].found[1][0]
        got = gradient.clone()
        expected = step(batch, torch.Generator().manual_seed(seed))
        assert found == float(expected["loss"]) and torch.equal(weight.grad, got)
    assert [graph.replays for graph in fake_graphs] == [3]


@pytest.mark.gpu
def test_replayed_steps_train_as_others_do(
    make_scorer: MakeScorer, trainer_of: TrainerOf, dataset: NormalSlices
) -> None:
    device = torch.device("cuda")

    def trained(compiling: str) -> tuple[dict[str, Tensor], int]:
        detector = make_scorer(with_head=True).detector.to(device)
        detector.prepare(NormalBatches(dataset, device), "pretrain")
        trainer = trainer_of(
            detector, "pretrain", epochs=5, prepared=False, device=device, average=True,
            cosine=True, max_grad_norm=1.0, compiling=compiling,
            optimizer=partial(torch.optim.SGD, lr=0.1),
            train_data_loader=slice_loader(dataset, 3, 1, "pretrain", min_samples=8),
        )  # fmt: skip
        replayed: list[object] = []

        @trainer.on(Events.ITERATION_COMPLETED)
        def look() -> None:
            if trainer.replay is not None and trainer.replay.recorded.graphs:
                replayed.append(trainer.replay)

        trainer.run()
        assert trainer.replay is None
        return detector.state_dict(), len(replayed)

    before = make_scorer(with_head=True).detector.state_dict()
    plain, never = trained("never")
    replayed, often = trained("auto")
    assert never == 0 and often > 2 * WARM_UP
    moved = [name for name, value in before.items() if not torch.equal(value, plain[name].cpu())]
    assert any(name.startswith("network.head") for name in moved)
    for name in moved:  # of batches of 3 and, the last of an epoch, of 2
        torch.testing.assert_close(replayed[name], plain[name], rtol=1e-3, atol=1e-4, msg=name)

"""A step asks the device for nothing, so that the host runs ahead of it."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch.utils._python_dispatch import TorchDispatchMode

from networks import AnomalyScorer
from pipelines.data import NormalSlices
from pipelines.training import NormalBatches, make_detector
from pipelines.training.stages import StageTrainer

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "aten.equal")
"""Operations that read a value from the device, or write one to it, and wait."""

ON_THE_HOST = ("cache.py", "optimizer.step()", "int(self.n_averaged)")
"""Places where they are of tensors that lie on the host anyway."""


class Watch(TorchDispatchMode):
    """Keeps the places in the project from which operations are called that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if any(name in str(function) for name in WAITS):
            stack = [one for one in traceback.extract_stack() if one.filename != __file__]
            own = [one for one in stack if "/pipelines/" in one.filename]
            self.found.append(f"{function} {own[-1].filename}: {own[-1].line}")
        given: Mapping[str, Any] = kwargs or {}
        return function(*args, **given)


def waits(trainer: StageTrainer) -> list[str]:
    """Where the steps of a trainer wait."""
    watch = Watch()
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: watch.__enter__())
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: watch.__exit__(None, None, None))
    trainer.run()
    assert watch.found  # the optimiser's counts of its steps
    return [one for one in watch.found if not any(name in one for name in ON_THE_HOST)]


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_a_step_does_not_wait_for_the_device(
    make_scorer: Callable[..., AnomalyScorer],
    trainer_of: Callable[..., StageTrainer],
    stage: str,
) -> None:
    trainer = trainer_of(
        make_scorer(with_head=True).detector, stage, epochs=1,
        average=stage == "pretrain", cosine=True, max_grad_norm=1.0,
    )  # fmt: skip
    assert waits(trainer) == []


@pytest.mark.parametrize(
    ("method", "members"),
    [("aeflow", 2), ("anatpaste", 1), ("fastflow", 1), ("padim", 1), ("patchcore", 1)],
)
def test_no_pretraining_that_is_replayed_waits(
    trainer_of: Callable[..., StageTrainer], method: str, members: int
) -> None:
    head = {"with_head": True} if method == "aeflow" else {}
    detector = make_detector(method, ensemble=members, in_channels=1, **head)
    trainer = trainer_of(detector, "pretrain", epochs=1, average=True)
    assert trainer.step.replayable and waits(trainer) == []


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for(
    make_scorer: Callable[..., AnomalyScorer],
    trainer_of: Callable[..., StageTrainer],
    dataset: NormalSlices,
) -> None:
    device, detector = torch.device("cuda"), make_scorer(with_head=True).detector.to("cuda")
    detector.prepare(NormalBatches(dataset, device), "pretrain")
    trainer = trainer_of(
        detector, "pretrain", prepared=False, device=device, amp=True, average=True, cosine=True,
        max_grad_norm=1.0, optimizer=partial(torch.optim.AdamW, lr=1e-3, fused=True),
    )  # fmt: skip
    watched = torch.cuda.set_sync_debug_mode
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: watched("error"))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: watched("default"))
    try:
        trainer.run()
    finally:
        watched("default")

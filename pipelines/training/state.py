"""What a stage's trainer needs to go on as if it had never stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

from ignite.engine import Events

from pipelines.training.stages import StageTrainer

BEST = ("best_metric", "best_metric_epoch")
"""What MONAI keeps in an engine's state of the epochs so far."""


def state_of(trainer: StageTrainer) -> dict[str, Any]:
    """A trainer's state between two iterations, beside the detector's weights.

    Learning rates, batches, anomalies and all other random numbers are functions of what is
    counted here.
    """
    validator = trainer.validator
    return {
        "engine": dict(trainer.state_dict()),
        "best": {name: getattr(trainer.state, name) for name in BEST},
        "optimizers": {name: one.state_dict() for name, one in trainer.optimizers.items()},
        "average": None if trainer.average is None else trainer.average.state_dict(),
        "seconds": time.monotonic() - trainer.began,
        "means": {name: metric.state_dict() for name, metric in trainer.means.items()},
        "validation": {} if validator is None else dict(validator.state.metrics),
    }


def take_up(trainer: StageTrainer, state: Mapping[str, Any]) -> None:
    """Lets a trainer's next run begin where another trainer's state was taken.

    Args:
        trainer: not yet run; its detector has the weights of then.
        state: see `state_of`.
    """
    trainer.load_state_dict(state["engine"])
    for name, value in state["best"].items():
        setattr(trainer.state, name, value)
    for name, optimizer in trainer.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    if trainer.validator is not None:
        trainer.validator.state.metrics.update(state["validation"])
    trainer.add_event_handler(Events.STARTED, _start, state)
    epoch = trainer.state.epoch + 1
    trainer.add_event_handler(Events.EPOCH_STARTED(once=epoch), _start_epoch, state)


def _start(trainer: StageTrainer, state: Mapping[str, Any]) -> None:
    trainer.began = time.monotonic() - state["seconds"]
    if trainer.average is not None:
        trainer.average.load_state_dict(state["average"])
    _fill_cache(trainer)


def _fill_cache(trainer: StageTrainer) -> None:
    """Encodes the batches in which the images were first seen: others could round otherwise."""
    if trainer.step.cache is None:
        return
    loader: Any = trainer.data_loader
    trainer.network.train()
    for done in range(0, trainer.state.iteration, len(loader)):
        loader.sampler.set_epoch(1 + done // len(loader))
        for batch in islice(loader, trainer.state.iteration - done):
            trainer.step.encode(trainer, trainer.step.inputs(trainer, batch)[0], batch)
        if trainer.step.cache.known.all():
            return


def _start_epoch(trainer: StageTrainer, state: Mapping[str, Any]) -> None:
    """Leaves out what an epoch has already seen, and takes up the means of it."""
    loader: Any = trainer.data_loader
    done = trainer.state.iteration % len(loader)
    if done:
        loader.sampler.start = done * loader.batch_size
        for name, metric in trainer.means.items():
            metric.load_state_dict(state["means"][name])

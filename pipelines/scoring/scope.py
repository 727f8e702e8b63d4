"""What is in scope of a model, learnt from its normal images, changed as other sites might."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from networks.scope import SIDES, Scope
from pipelines.common import generator
from pipelines.data import NormalSlices, reads_signals
from transforms.mild import mild_changes_of
from transforms.synthetic import SyntheticAnomalies

MOST_IMAGES = 480
"""Images that the scope is learnt from, evenly spaced, and as many that set its limits."""

CHANGED = 48
"""Of these, how many each change is tried on."""


def fit_scope(
    training: NormalSlices,
    held_out: NormalSlices,
    synthetic: SyntheticAnomalies | None = None,
    seed: int = 0,
) -> Scope:
    """Learns the scope of a model.

    Args:
        training: its normal training images.
        held_out: normal images of other patients.
        synthetic: makes anomalies, with which images stay in scope.
        seed: the run's seed.
    """
    normal, plain, changed = _images(training, synthetic, seed)
    _, _, moved = _images(held_out, synthetic, seed)
    scope = Scope(normal.shape[1], normal.ndim - 2)
    scope.fit(normal, plain, changed, torch.cat([_spread(held_out.images, MOST_IMAGES), moved]))
    return scope


def _images(
    dataset: NormalSlices, synthetic: SyntheticAnomalies | None, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Images; some of them; and the same, changed in all ways."""
    some = _spread(dataset.images, CHANGED)
    changed = [change(some) for change in mild_changes_of(some).values()]
    if synthetic is not None:
        body, region = (_spread(dataset.context[name], CHANGED) for name in ("body", "region"))
        changed.append(synthetic(some, body, region, generator(seed, "scope"))[0])
    return (
        _spread(dataset.images, MOST_IMAGES),
        torch.cat([some] * len(changed)),
        torch.cat(changed),
    )


def _spread(values: Tensor, most: int) -> Tensor:
    return values[torch.linspace(0, len(values) - 1, min(len(values), most)).long()]


def load_scope(model: Mapping[str, Any]) -> Scope:
    """The scope that a model file records."""
    state = dict(model["scope"])
    dims = 1 if reads_signals(model) else 2
    scope = Scope(len(state["gaussians.arrangement.mean"]) // SIDES[dims] ** dims, dims)
    scope.load_state_dict(state)
    return scope


def widened_scope(model: Mapping[str, Any], images: Tensor) -> Scope:
    """The scope of a model file, with images of another site taken in."""
    scope = load_scope(model)
    scope.widen(_spread(images, MOST_IMAGES))
    return scope

"""What is in scope of a model, learnt from its normal images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipelines.data.datasets import NormalSlices
from pipelines.scoring import scope as room
from pipelines.scoring.scope import fit_scope, load_scope, widened_scope

MakeImages = Callable[..., Tensor]
MakeSlices = Callable[..., NormalSlices]


def test_a_scope_comes_back_from_a_model_file(
    make_images: MakeImages, make_slices: MakeSlices
) -> None:
    training, held_out = make_slices(make_images(40)), make_slices(make_images(20, seed=1))
    scope = fit_scope(training, held_out)
    fresh = make_images(10, seed=2)
    assert not scope(fresh).reason() and scope(fresh / 20).reason()
    model: dict[str, Any] = {"scope": dict(scope.state_dict())}
    again = load_scope(model)
    torch.testing.assert_close(again(fresh).beyond, scope(fresh).beyond)
    wider = widened_scope(model, fresh / 20)
    assert not wider(fresh / 20).reason() and (wider.limits >= scope.limits).all()


def test_images_are_spread_over_all() -> None:
    values = torch.arange(90)
    assert room._spread(values, 480).tolist() == values.tolist()
    found = room._spread(values, 60)
    assert len(found) == 60 and found[0] == 0 and found[-1] == 89 and found.diff().max() <= 2

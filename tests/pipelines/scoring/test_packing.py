"""What goes with the images, packed with them."""

from collections.abc import Callable

import pytest
import torch

from networks import AnomalyScorer
from pipelines.scoring.packing import CHANNELS, packed, unpacked

MakeScorer = Callable[..., AnomalyScorer]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 48), (48, 32), (1, 1), (16, 32, 48)])
def test_what_is_packed_comes_back_unchanged(
    make_scorer: MakeScorer, channels: int, size: tuple[int, ...]
) -> None:
    volume = (1, *size)[-3:]
    patch_size = volume if len(size) > 2 else None
    detector = make_scorer(channels, normative=True, patch_size=patch_size).detector
    images = torch.rand(4, channels, *size)
    context = {
        "place": torch.rand(4, sum(volume)),
        "body": torch.rand(4, 1, *size) > 0.5,
        "region": torch.ones(4, 1, *size).bool(),  # not needed
    }
    tensor = packed(images, context, detector)
    assert tensor.shape == (4, channels + sum(CHANNELS.values()), *size)
    found, around = unpacked(tensor, detector)
    assert torch.equal(found, images) and found.dtype == images.dtype
    assert set(around) == {"body", "place"} == set(detector.needs)
    for name, value in around.items():
        assert value.dtype == context[name].dtype and torch.equal(value, context[name]), name


def test_images_that_need_nothing_stay_as_they_are(make_scorer: MakeScorer) -> None:
    detector, images = make_scorer(2).detector, torch.rand(3, 2, 8, 8)
    assert torch.equal(packed(images, {"body": images[:, :1] > 0}, detector), images)
    found, around = unpacked(images, detector)
    assert torch.equal(found, images) and around == {}

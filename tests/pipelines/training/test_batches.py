"""The data's batches as a detector sees them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from networks import Detector
from pipelines.data.datasets import NormalSlices
from pipelines.training.batches import NormalBatches, as_inputs

MakeImages = Callable[..., Tensor]
MakeSlices = Callable[[Tensor], NormalSlices]


def test_batches_come_in_the_order_of_the_data(
    make_slices: MakeSlices, make_images: MakeImages
) -> None:
    images = make_images(7)
    batches = NormalBatches(make_slices(images), batch_size=3)
    for _ in range(2):
        found = list(batches)
        assert [len(one.image) for one in found] == [3, 3, 1]
        assert torch.equal(torch.cat([one.image for one in found]), images)
        body = torch.cat([one.context["body"] for one in found])
        assert torch.equal(body, images > 0)
        assert torch.cat([one.context["case"] for one in found]).tolist() == list(range(7))


def test_a_few_images_are_spread_over_the_data(
    make_slices: MakeSlices, make_images: MakeImages
) -> None:
    images = make_images(10)
    batches = NormalBatches(make_slices(images))
    assert torch.equal(batches.spread(3).image, images[[0, 3, 6]])
    assert torch.equal(batches.spread(64).image, images)
    context = batches.spread(3).context
    assert {"body", "region", "case"} <= set(context) and "image" not in context
    assert torch.equal(context["body"], images[[0, 3, 6]] > 0)


def test_input_statistics_are_per_channel_and_of_all_batches(
    make_scorer: Callable[..., Any], make_slices: MakeSlices, make_images: MakeImages
) -> None:
    images = make_images(7, 3)
    for batch_size in (2, 64):
        detector = make_scorer(3).detector
        Detector.prepare(detector, NormalBatches(make_slices(images), batch_size=batch_size), None)
        torch.testing.assert_close(detector.input_mean.flatten(), images.mean((0, 2, 3)))
        torch.testing.assert_close(detector.input_std.flatten(), images.std((0, 2, 3)))


def test_a_detector_gets_what_it_needs_alone() -> None:
    batch = {"image": torch.zeros(2, 1, 4, 4), "index": torch.arange(2), "body": torch.ones(2)}
    assert as_inputs(batch, (), torch.device("cpu")).context == {}
    found = as_inputs(batch, ("body",), torch.device("cpu"))
    assert found.image is batch["image"] and list(found.context) == ["body"]
    with pytest.raises(ValueError, match="needs: this detector needs place, which the data do not"):
        as_inputs(batch, ("body", "place"), torch.device("cpu"))

"""What methods on features share: the encoder's pre-training, its freezing, its weights."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from networks import Inputs
from networks.detectors.padim import PaDiM
from networks.detectors.pretrained import stacked
from networks.errors import ArgumentError
from networks.head import HeadOutput
from pipelines.data import NormalSlices
from pipelines.training import NormalBatches

MakeImages = Callable[..., Tensor]
MakeSlices = Callable[..., NormalSlices]


def test_the_head_learns_where_anomalies_are_and_that_they_are() -> None:
    detector, inputs = PaDiM(head_pool=0.5), Inputs(torch.zeros(2, 1, 16, 16))
    logits = torch.tensor([[1.0, -2.0, 0.0, 3.0], [1.0, -1.0, 2.0, 0.0]]).view(2, 1, 2, 2)
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, 0, :8, :8] = 1.0
    mask[0, 0, 8:, 8:12] = 1.0
    mask[1] = math.nan  # of which only is known that it holds one
    covers = ((1.0, 1.0), (-2.0, 0.0), (0.0, 0.0), (3.0, 0.5))
    located = sum(math.log1p(math.exp(logit)) - cover * logit for logit, cover in covers) / 4
    whole = math.log1p(math.exp(-(2.0 + 1.0) / 2))
    found = detector.loss(HeadOutput(logits), inputs, "pretrain", mask)["loss"]
    assert float(found) == pytest.approx((located + whole) / 2)
    torch.testing.assert_close(detector.detected(HeadOutput(logits)), torch.tensor([2.0, 1.5]))
    with pytest.raises(ArgumentError, match="mask: pre-training needs"):
        detector.loss(HeadOutput(logits), inputs, "pretrain")


def test_the_encoder_learns_in_pre_training_alone(
    make_images: MakeImages, make_slices: MakeSlices
) -> None:
    detector, batches = PaDiM(features=4), NormalBatches(make_slices(make_images(4)))
    (stage,) = detector.stages
    assert stage.synthetic and len(list(stage.groups["loss"])) == len(list(detector.parameters()))
    detector.prepare(batches, "pretrain")
    assert not detector.encoder.frozen
    detector.prepare(batches, None)
    assert detector.encoder.frozen and not detector.train().encoder.training


def test_without_a_head_the_weights_are_given() -> None:
    given, detector = PaDiM(strides=(4,)), PaDiM(strides=(4, 8), with_head=False)
    assert detector.stages == () and detector.encoder.strides == (4, 8)
    weights = PaDiM(strides=(4, 32)).encoder.backbone.state_dict()
    detector.load_encoder(weights)
    image = torch.rand(1, 1, 32, 32)
    found = detector.eval().encode(Inputs(image))
    assert [one.shape[1] for one in found] == [64, 128]
    given.load_encoder(weights)
    torch.testing.assert_close(given.eval().encode(Inputs(image))[0], found[0])


def test_features_are_stacked_on_the_finest_grid() -> None:
    fine, coarse = torch.rand(2, 3, 4, 6), torch.rand(2, 5, 2, 3)
    found = stacked([fine, coarse], torch.nn.functional.interpolate)
    assert torch.equal(found[:, :3], fine)
    assert torch.equal(found[:, 3:, 3, 5], coarse[:, :, 1, 2])

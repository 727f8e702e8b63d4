"""FastFlow: its likelihood against autograd's Jacobian, its sub-networks and its loss."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from networks import Inputs
from networks.detectors.fastflow import FastFlow, FastFlowOutput, alternating
from networks.errors import ArgumentError

MakeImages = Callable[..., Tensor]
Randomise = Callable[[nn.Module, int], nn.Module]


def test_the_likelihood_is_that_of_the_change_of_variables(randomise: Randomise) -> None:
    detector = FastFlow(strides=(4,), steps=3, with_head=False).double()
    detector.channels, flow = (6,), type(detector.flows[0])(6, 3, alternating(1.0))
    detector.flows[0] = randomise(flow.double(), 1)
    features = torch.randn(1, 6, 2, 3, dtype=torch.float64)

    def latent(flat: Tensor) -> Tensor:
        found: Tensor = detector.flows[0](flat.view(1, 6, 2, 3))[0].flatten()
        return found

    flat = features.flatten()
    jacobian = torch.autograd.functional.jacobian(latent, flat)
    expected = -0.5 * (latent(flat).square() + math.log(2 * math.pi)).sum()
    expected = expected + torch.linalg.slogdet(jacobian).logabsdet
    (found,) = detector.from_features([features]).log_likelihood
    torch.testing.assert_close(found.sum(), expected)
    assert abs(float(torch.linalg.slogdet(jacobian).logabsdet)) > 0.1


def test_the_sub_networks_alternate_between_3_x_3_and_1_x_1() -> None:
    detector = FastFlow(steps=4, ratio=0.5)
    for channels, flow in zip((64, 128, 256), detector.flows, strict=True):
        found = [step.coupling.subnet for step in flow.steps]
        assert [one[0].kernel_size[0] for one in found] == [3, 1, 3, 1]
        assert [one[2].kernel_size[0] for one in found] == [3, 1, 3, 1]
        assert {one[0].out_channels for one in found} == {channels // 4}


def test_loss_and_maps_are_per_dimension(make_images: MakeImages) -> None:
    detector, inputs = FastFlow(strides=(4, 8), steps=1), Inputs(make_images(2))
    output = FastFlowOutput([torch.full((2, 8, 8), -128.0), torch.full((2, 4, 4), -64.0)])
    terms = detector.loss(output, inputs, "train")
    assert float(terms["loss"]) == pytest.approx(128 / 64 + 64 / 128)
    found = detector.evidence(output, inputs).maps
    assert tuple(found) == detector.parts[0].maps
    assert found["flow4"].unique().item() == 2.0 and found["flow8"].unique().item() == 0.5


def test_mistakes_are_told() -> None:
    with pytest.raises(ArgumentError, match="ratio, pool: expected .*, got 0.0, 0.03"):
        FastFlow(ratio=0.0)

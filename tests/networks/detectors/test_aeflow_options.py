"""AE-FLOW with a critic, and with a variational bottleneck: their terms by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from networks import DETECTORS, Inputs
from networks.detectors.aeflow import AEFlowDetector
from networks.detectors.aeflow_adversarial import AdversarialAEFlow, AdversarialOutput
from networks.detectors.aeflow_variational import VariationalAEFlow
from networks.errors import ArgumentError

MakeImages = Callable[..., Tensor]
SMALL: dict[str, Any] = {"flow_strides": (8,), "flow_steps": 1, "hidden": 8, "decoder_width": 4}


def plain(detector: AEFlowDetector) -> AEFlowDetector:
    """AE-FLOW with the same weights."""
    same = AEFlowDetector(**SMALL).eval()
    state = {k.replace("decoder.decoder", "decoder"): v for k, v in detector.state_dict().items()}
    same.load_state_dict(state, strict=False)
    return same


def test_critic_and_reconstruction_pull_against_each_other(make_images: MakeImages) -> None:
    detector, inputs = AdversarialAEFlow(adversarial=0.5, **SMALL).eval(), Inputs(make_images(2))
    network = detector(inputs)
    fake, real = torch.tensor([[[[0.2, 0.6]]]]), torch.tensor([[[[0.9, 0.5]]]])
    terms = detector.loss(AdversarialOutput(network, fake, real), inputs, "train")
    assert tuple(terms) == detector.stages[-1].terms
    assert float(terms["critic_loss"]) == pytest.approx((0.01 + 0.25 + 0.04 + 0.36) / 2)
    assert float(terms["adversarial_loss"]) == pytest.approx((0.64 + 0.16) / 2)
    without = plain(detector).loss(network, inputs, "train")["loss"]
    assert (terms["loss"] - without).item() == pytest.approx(0.5 * 0.4, rel=1e-5)


def test_the_critic_sees_reconstruction_and_image(make_images: MakeImages) -> None:
    detector, inputs = AdversarialAEFlow(**SMALL).eval(), Inputs(make_images(2))
    output = detector(inputs, stage="train")
    torch.testing.assert_close(output.fake, detector.critic(output.network.reconstruction)[-1])
    torch.testing.assert_close(output.real, detector.critic(inputs.image)[-1])
    groups = detector.stages[-1].groups
    assert not {id(p) for p in groups["loss"]} & {id(p) for p in groups["critic_loss"]}


def test_the_divergence_is_that_of_a_gaussian() -> None:
    decoder = VariationalAEFlow(**SMALL).network.decoder
    latent = torch.randn(2, 128, 3, 4)
    torch.nn.init.normal_(decoder.log_variance.weight, std=0.1)
    deviation = torch.exp(0.5 * decoder.log_variance(latent))
    expected = kl_divergence(Normal(latent, deviation), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(decoder.divergence(latent), expected)


def test_the_decoder_samples_in_training_alone(make_images: MakeImages) -> None:
    detector, inputs = VariationalAEFlow(divergence=2.0, **SMALL).eval(), Inputs(make_images(2))
    output = detector(inputs)
    expected = plain(detector)(inputs)
    torch.testing.assert_close(output.reconstruction, expected.reconstruction)
    terms = detector.loss(output, inputs, "train")
    without = plain(detector).loss(output, inputs, "train")["loss"]
    torch.testing.assert_close(terms["loss"], without + 2.0 * terms["divergence"])
    detector.train()
    latent = output.latents[-1]
    first, second = (detector.network.decoder(latent) for _ in range(2))
    assert (first - second).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "option"),
    [("aeflow_adversarial", "adversarial"), ("aeflow_variational", "divergence")],
)
def test_mistakes_are_told(name: str, option: str) -> None:
    with pytest.raises(ArgumentError, match=f"{option}: expected a number from 0 on, got -1"):
        DETECTORS[name](**{option: -1.0}, **SMALL)

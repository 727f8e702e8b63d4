"""AnoGAN: its losses by hand, and a search that comes nearer."""

import math

import pytest
import torch
from torch import nn

from networks import Inputs
from networks.detectors.anogan import AnoGANDetector, GANOutput

SMALL = {"image_size": 16, "width": 8, "latent": 4}


def test_the_game_is_told_by_logits() -> None:
    detector = AnoGANDetector(**SMALL)
    detector.critic = nn.Sequential(nn.Flatten(), nn.Linear(256, 1))  # type: ignore[assignment]
    nn.init.zeros_(detector.critic[1].weight)
    nn.init.constant_(detector.critic[1].bias, 2.0)
    image = torch.zeros(2, 1, 16, 16)
    output = GANOutput(image, image, torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [-1.0]]))
    terms = detector.loss(output, Inputs(image), "train")
    lost = [math.log(1 + math.exp(-x)) for x in (0.0, -1.0)]
    assert terms["generator_loss"].item() == pytest.approx(sum(lost) / 2)
    real, fake = (math.log(2) + math.log(1 + math.exp(-1))) / 2, math.log(1 + math.exp(2))
    assert terms["critic_loss"].item() == pytest.approx(real + fake)


def test_the_score_weighs_residual_and_features() -> None:
    detector = AnoGANDetector(**SMALL, share=0.25)
    detector.critic.net = nn.AvgPool2d(16)
    image, made = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    made[..., 8:, :] = -3.0  # |x - G| sums to 512, the only feature differs by 1
    found = detector.compared(image, made)
    assert float(found) == pytest.approx((0.75 * 512 + 0.25 * 1) / 256)


def test_the_search_lowers_its_loss_and_finds_a_latent_that_is_there() -> None:
    detector = AnoGANDetector(**SMALL, steps=200, rate=0.1).eval()
    with torch.no_grad():
        image = detector.generator(torch.randn(4, 4))
        inputs = Inputs(image)
        start = detector.compared(image, detector(inputs).made)
        found = detector.evidence(detector(inputs), inputs)
    assert (found.values["anomaly"] < 0.5 * start).all()
    assert found.values["anomaly"].mean() < 0.2 * start.mean()
    assert not found.maps["residual"].requires_grad
    assert all(p.grad is None for p in detector.parameters())

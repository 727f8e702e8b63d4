"""f-AnoGAN: penalty and scores by hand."""

import pytest
import torch
from torch import nn

from networks import Inputs
from networks.detectors.fanogan import EncodedOutput, FAnoGANDetector, GameOutput

SMALL = {"image_size": 16, "width": 8, "latent": 4}


def linear_critic(slope: float) -> nn.Module:
    critic = nn.Sequential(nn.Flatten(), nn.Linear(256, 1, bias=False))
    nn.init.constant_(critic[1].weight, slope / 16)  # the gradient's norm is the slope
    return critic


def test_the_wasserstein_losses_of_a_linear_critic() -> None:
    detector = FAnoGANDetector(**SMALL, penalty=10.0)
    detector.critic = linear_critic(3.0)  # type: ignore[assignment]
    image, made = torch.ones(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)
    made[..., :4, :] = 1.0
    terms = detector.loss(GameOutput(made, detector.critic(made)), Inputs(image), "pretrain")
    real, fake = 3.0 / 16 * 256, 3.0 / 16 * 64
    assert terms["generator_loss"].item() == pytest.approx(-fake)
    assert terms["critic_loss"].item() == pytest.approx(fake - real + 10.0 * (3.0 - 1.0) ** 2)


def test_the_penalty_is_told_without_gradients_too_and_trains_the_critic() -> None:
    detector = FAnoGANDetector(**SMALL)
    image, made = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        assert detector.gradient_penalty(image, made) > 0
    detector.gradient_penalty(image, made).backward()
    first = next(detector.critic.parameters())
    assert first.grad is not None and first.grad.abs().sum() > 0


def test_the_score_adds_the_features() -> None:
    detector = FAnoGANDetector(**SMALL, kappa=0.5)
    image = torch.zeros(1, 1, 16, 16)
    output = EncodedOutput(image + 2.0, torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]]))
    found = detector.evidence(output, Inputs(image))
    assert found.values["anomaly"].tolist() == [4.0 + 0.5 * 5.0]
    assert (found.maps["residual"] == 2.0).all()
    assert detector.loss(output, Inputs(image), "train")["loss"].item() == 4.0 + 0.5 * 5.0

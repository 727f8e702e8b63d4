"""The variational autoencoder: its ELBO on a linear Gaussian, where it is known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from networks import Inputs
from networks.detectors.vae import LEAST_VARIANCE, VAEDetector, VAEOutput

MakeImages = Callable[..., Tensor]

VARIANCE = 0.5


class LinearGaussian(nn.Module):
    """p(z) = N(0, I), p(x|z) = N(W z, VARIANCE I); the encoder gives the true posterior."""

    def __init__(self, size: int, latent: int) -> None:
        super().__init__()
        self.weight = torch.randn(size, latent, dtype=torch.float64)
        self.weight = torch.linalg.qr(self.weight).Q * torch.arange(1, latent + 1)  # W'W diagonal
        self.precision = torch.eye(latent) + self.weight.T @ self.weight / VARIANCE

    def encode_forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean = image.double().flatten(1) @ self.weight / VARIANCE / self.precision.diagonal()
        return mean, -self.precision.diagonal().log().expand_as(mean)

    def decode_forward(self, latent: Tensor, use_sigmoid: bool) -> Tensor:
        assert not use_sigmoid
        pixels = (latent.double() @ self.weight.T).view(-1, 1, 4, 4)
        raw = math.log(math.expm1(VARIANCE - LEAST_VARIANCE))  # of which softplus is the variance
        return torch.cat([pixels, torch.full_like(pixels, raw)], dim=1)

    def evidence(self, image: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + VARIANCE * torch.eye(16)
        told = MultivariateNormal(torch.zeros(16).double(), covariance)
        return told.log_prob(image.double().flatten(1))


def test_the_elbo_of_the_true_posterior_is_the_evidence() -> None:
    model, image = LinearGaussian(16, 3), torch.randn(1, 1, 4, 4)
    detector = VAEDetector(image_size=16, width=8, latent=3)
    detector.network = model  # type: ignore[assignment]
    many = Inputs(image.expand(40_000, -1, -1, -1))  # a sample each
    terms = detector.loss(detector(many, stage="train"), many, "train")
    assert terms["loss"].item() == pytest.approx(-float(model.evidence(image)) / 16, rel=2e-3)
    assert terms["loss"].item() == pytest.approx(float(terms["recon_loss"] + terms["kl_loss"]))
    # A posterior that is off by the prior's deviation: the ELBO is less by the divergence.
    found = detector(many, stage="train")
    shifted = found._replace(latent_mean=found.latent_mean + 1.0)
    more = detector.loss(shifted, many, "train")["kl_loss"] - terms["kl_loss"]
    expected = ((found.latent_mean[0] + 1.0).square() - found.latent_mean[0].square()).sum() / 32
    assert float(more) == pytest.approx(float(expected), rel=1e-3)


def test_the_reconstruction_probability_by_hand() -> None:
    detector = VAEDetector(image_size=16, width=8, latent=1, samples=2)
    image = torch.zeros(1, 1, 1, 2)
    mean = torch.tensor([[[[[0.0, 1.0]]]], [[[[2.0, 0.0]]]]])  # two samples of two pixels
    variance = torch.tensor([[[[[1.0, 4.0]]]], [[[[1.0, 1.0]]]]])
    none = torch.zeros(1, 1)
    found = detector.evidence(VAEOutput(none, none, mean, variance), Inputs(image))
    usual = 0.5 * math.log(2 * math.pi)
    expected = [usual + (0 + 2) / 2, usual + (1 / 8 + math.log(2) + 0) / 2]
    assert found.maps["probability"].flatten().tolist() == pytest.approx(expected)
    assert float(found.values["probability"]) == pytest.approx(sum(expected) / 2)


def test_an_image_has_one_score(make_images: MakeImages) -> None:
    detector = VAEDetector(image_size=(32, 48), width=8, latent=4).eval()
    inputs = Inputs(make_images(2, height=32, width=48))
    once, again = (detector.evidence(detector(inputs), inputs) for _ in range(2))
    assert torch.equal(once.values["probability"], again.values["probability"])

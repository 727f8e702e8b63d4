"""Donut: its ELBO of windows with gaps where it is known, and a planted spike."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from networks import Evidence, Inputs
from networks.detectors.donut import LEAST_STD, DonutDetector, DonutOutput

VARIANCE = 0.5
LENGTH = 6


def raw(std: Tensor) -> Tensor:
    """What the softplus turns into a standard deviation."""
    return (std - LEAST_STD).expm1().log()


class LinearGaussian(nn.Module):
    """p(z) = N(0, I), p(x|z) = N(W z, VARIANCE I); the encoder gives the true posterior."""

    def __init__(self, size: int, latent: int) -> None:
        super().__init__()
        weight = torch.linalg.qr(torch.randn(size, latent, dtype=torch.float64)).Q
        self.weight = weight * torch.arange(1, latent + 1)  # W'W diagonal
        self.precision = 1.0 + self.weight.square().sum(dim=0) / VARIANCE

    def encode_forward(self, window: Tensor) -> tuple[Tensor, Tensor]:
        mean = window.double() @ self.weight / VARIANCE / self.precision
        return mean, raw(self.precision.rsqrt()).expand_as(mean)

    def decode_forward(self, latent: Tensor, use_sigmoid: bool) -> Tensor:
        assert not use_sigmoid
        mean = latent.double() @ self.weight.T
        spread = raw(torch.full_like(mean, math.sqrt(VARIANCE)))
        return torch.cat([mean, spread], dim=1)


def linear(injected: float = 0.0, **options: Any) -> DonutDetector:
    detector = DonutDetector(image_size=LENGTH, latent=2, injected=injected, **options)
    detector.network = LinearGaussian(LENGTH, 2)  # type: ignore[assignment]
    return detector


def modified_elbo(model: LinearGaussian, window: Tensor, alpha: Tensor) -> float:
    """Equation 3 in closed form, for a window and alpha ``(L,)``."""
    mean, variance = model.encode_forward(window[None])[0][0], 1.0 / model.precision
    error = (window - model.weight @ mean).square() + model.weight.square() @ variance
    recon = -0.5 * (error / VARIANCE + math.log(2 * math.pi * VARIANCE))
    prior = -0.5 * (mean.square() + variance + math.log(2 * math.pi)).sum()
    entropy = 0.5 * (variance.log() + math.log(2 * math.pi) + 1.0).sum()
    return float((alpha * recon).sum() + alpha.mean() * prior + entropy)


def test_the_modified_elbo_by_hand() -> None:
    detector, window = linear(), torch.randn(LENGTH).double()
    model: Any = detector.network
    for missing in ((), (1, 4)):
        body = torch.ones(1, 1, LENGTH, dtype=torch.bool)
        body[..., missing] = False
        many = Inputs(window.expand(40_000, 1, -1), {"body": body.expand(40_000, -1, -1)})
        terms = detector.loss(detector(many, stage="train"), many, "train")
        alpha = body.flatten().double()
        expected = modified_elbo(model, window * alpha, alpha)
        assert float(terms["loss"]) == pytest.approx(-expected, rel=3e-3)
        assert float(terms["loss"]) == pytest.approx(float(terms["recon_loss"] + terms["kl_loss"]))
    # With nothing missing and the true posterior it is the evidence.
    covariance = model.weight @ model.weight.T + VARIANCE * torch.eye(LENGTH)
    evidence = MultivariateNormal(torch.zeros(LENGTH).double(), covariance).log_prob(window)
    assert modified_elbo(model, window, torch.ones(LENGTH)) == pytest.approx(float(evidence))


def test_missing_samples_are_neither_learnt_nor_scored() -> None:
    detector = DonutDetector(image_size=LENGTH, latent=2, injected=0.5)
    body = torch.tensor([True, True, False, True, False, True]).view(1, 1, -1)
    image = torch.rand(4, 1, LENGTH)
    context = {"body": body.expand(4, -1, -1)}
    found: list[tuple[Tensor, Evidence, Tensor]] = []
    for filled in (0.3, math.nan):
        inputs = Inputs(image.where(body, filled), context)
        detector.prepare([inputs], None)  # type: ignore[arg-type]
        torch.manual_seed(0)
        output = detector(inputs, stage="train")
        loss = detector.loss(output, inputs, "train")["loss"]
        (gradient,) = torch.autograd.grad(loss, [detector.network.mu.weight])
        found.append((gradient, detector.evidence(detector(inputs), inputs), output.seen))
    (gradient, first, seen), (again, second, _) = found
    assert torch.equal(gradient, again)
    assert torch.equal(first.maps["probability"], second.maps["probability"])
    assert 0 < seen.sum() < 16 and not (seen & ~body).any()  # some more were made missing
    present = image[body.expand_as(image)]
    assert float(detector.input_mean) == pytest.approx(float(present.mean()))
    assert float(detector.input_std) == pytest.approx(float(present.std()))


def test_imputation_moves_missing_samples_towards_what_the_model_expects() -> None:
    detector = linear(steps=200)
    detector.window_noise.zero_()  # so that it settles
    detector.latent_noise.zero_()
    model: Any = detector.network
    window = (model.weight @ torch.tensor([2.0, 1.0]).double()).view(1, 1, -1)
    seen = torch.arange(LENGTH).view(1, 1, -1) != 2
    imputed = detector.imputed(window.where(seen, 0.0), seen)
    # The fixed point: x_2 equals its own reconstruction W E[z|x].
    told = model.weight @ model.encode_forward(imputed.flatten(1))[0][0]
    assert torch.equal(imputed[seen], window[seen])
    assert float(imputed[..., 2]) == pytest.approx(float(told[2]), abs=1e-6)
    assert (imputed - window).abs()[..., 2] < 0.5 * window.abs()[..., 2]


def test_the_reconstruction_probability_by_hand() -> None:
    detector = DonutDetector(image_size=2, latent=1, samples=2)
    normal = torch.distributions.Normal
    mean = torch.tensor([[[[0.0, 1.0]]], [[[2.0, 0.0]]]])  # two draws of two samples
    told = normal(mean, torch.tensor([[[[1.0, 2.0]]], [[[1.0, 1.0]]]]))
    posterior, window = normal(torch.zeros(1, 1), 1.0), torch.zeros(1, 1, 2)
    seen = torch.tensor([[[True, False]]])
    found = detector.evidence(DonutOutput(window, seen, posterior, told), Inputs(window))
    usual = 0.5 * math.log(2 * math.pi)
    expected = [usual + (0 + 2) / 2, usual + (0.5 + math.log(2) + 0.5) / 2]
    assert found.maps["probability"].flatten().tolist() == pytest.approx(expected)


def sines(count: int) -> Tensor:
    phase = 6.28 * torch.rand(count, 1, 1)
    wave = 0.5 + 0.3 * torch.sin(torch.arange(40) * 6.28 / 20 + phase)
    return wave + 0.02 * torch.randn(wave.shape)


def test_a_spike_in_a_sine_is_found_beside_a_gap() -> None:
    detector = DonutDetector(image_size=[40], hidden=(50, 50), latent=3, samples=32)
    normal = Inputs(sines(512))
    detector.prepare([normal], "train")  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(detector.parameters(), lr=3e-3)
    for _ in range(400):
        some = Inputs(normal.image[torch.randint(512, (64,))])
        optimizer.zero_grad()
        detector.loss(detector(some, stage="train"), some, "train")["loss"].backward()
        optimizer.step()
    image, body = sines(20), torch.ones(20, 1, 40, dtype=torch.bool)
    body[..., 10:15] = False
    image[..., 10:15] = 0.0
    image[:, :, 25] += 0.3
    inputs = Inputs(image, {"body": body})
    with torch.no_grad():
        found = detector.evidence(detector(inputs), inputs)
        one = Inputs(image[:1], {"body": body[:1]})
        alone = detector.evidence(detector(one), one).maps["probability"]
    strange = found.maps["probability"]
    torch.testing.assert_close(alone, strange[:1], atol=1e-4, rtol=1e-4)
    assert float((strange.argmax(dim=2) == 25).float().mean()) >= 0.9
    assert found.reconstruction is not None
    assert float((found.reconstruction - image)[..., 30:].abs().mean()) < 0.08  # the units' own
    assert float(strange[..., 10:15].max()) < float(strange[..., 25].median())


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected windows \(B, C, 120\), got \(1, 1, 32, 32\)"):
        DonutDetector()(Inputs(torch.rand(1, 1, 32, 32)))

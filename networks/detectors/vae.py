"""A variational autoencoder scored by its reconstruction probability (An and Cho, 2015)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..convolutional import Size, make_vae
from .contract import Detector, Evidence, Inputs, Part, Stage, register

LEAST_VARIANCE = 0.01
"""Of a pixel given the latent, in squared standard deviations of the images: a background that
never varies would have an infinite likelihood."""

TERMS = ("loss", "recon_loss", "kl_loss")


class VAEOutput(NamedTuple):
    """The approximate posterior q(z|x), and p(x|z) for samples of it.

    Attributes:
        latent_mean: ``(B, Z)``.
        latent_log_variance: ``(B, Z)``.
        mean: of the pixels, ``(S, B, C, H, W)``.
        variance: likewise.
    """

    latent_mean: Tensor
    latent_log_variance: Tensor
    mean: Tensor
    variance: Tensor


@register("vae")
class VAEDetector(Detector):
    """A VAE whose decoder gives a mean and a variance per pixel.

    An and Cho, "Variational Autoencoder based Anomaly Detection using Reconstruction Probability",
    SNU technical report 2015. The loss is the negative ELBO, KL(q(z|x) || N(0, I)) - E_q log p(x|z)
    with p(x|z) = N(mu(z), diag(sigma^2(z))), one sample of z an image. The score is algorithm 4's
    reconstruction probability, in logs and negative: -1/L sum_l log p(x|z_l), z_l ~ q(z|x). All
    are divided by the number of pixels and channels. The noise of the z_l is drawn once and kept,
    so that an image has one score.

    Args:
        in_channels: channels of the image.
        image_size: side of the image in pixels, or height and width; divisible by 16.
        width: channels at full resolution, a multiple of 8.
        latent: numbers of the latent.
        samples: number L of samples in the score.
        contrast: see `Detector`.
    """

    noise: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        image_size: Size = 96,
        width: int = 16,
        latent: int = 64,
        samples: int = 8,
        contrast: str = "none",
    ) -> None:
        super().__init__(
            in_channels, contrast, image_size=image_size, width=int(width), latent=int(latent),
            samples=int(samples),
        )  # fmt: skip
        self.network = make_vae(in_channels, 2 * in_channels, image_size, width, latent)
        self.register_buffer("noise", torch.randn(samples, 1, latent))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The reconstruction probability."""
        return (Part("probability", ("probability",)),)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One stage."""
        return (Stage("train", {"loss": list(self.network.parameters())}, TERMS),)

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> VAEOutput:
        """Samples the latent: once, anew, in training; else with the noise that is kept."""
        mean, log_variance = self.network.encode_forward(self.normalize(inputs.image))
        noise = self.noise if stage is None else torch.randn_like(mean)[None]
        latent = mean + noise * (0.5 * log_variance).exp()
        decoded = self.network.decode_forward(latent.flatten(0, 1), use_sigmoid=False)
        pixels, spread = decoded.float().unflatten(0, latent.shape[:2]).chunk(2, dim=2)
        variance = F.softplus(spread) + LEAST_VARIANCE
        return VAEOutput(mean.float(), log_variance.float(), pixels, variance)

    def loss(
        self, output: VAEOutput, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The negative ELBO and its two terms, in nats per pixel and channel."""
        image = self.normalize(inputs.image)
        mean, log_variance = output.latent_mean, output.latent_log_variance
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1).mean()
        kl = kl / image[0].numel()
        recon = -log_likelihood(output, image).mean()
        return dict(zip(TERMS, (recon + kl, recon, kl), strict=True))

    def evidence(self, output: VAEOutput, inputs: Inputs) -> Evidence:
        """The negative reconstruction probability, per pixel and as a mean."""
        likelihood = log_likelihood(output, self.normalize(inputs.image))
        strange = -likelihood.mean(dim=(0, 2)).unsqueeze(1)
        values = {"probability": strange.mean(dim=(1, 2, 3))}
        restored = self.restore(output.mean.mean(dim=0), inputs.image)
        return Evidence({"probability": strange}, values, restored)


def log_likelihood(output: VAEOutput, image: Tensor) -> Tensor:
    """The log of p(x|z) for each pixel of images ``(B, C, H, W)``, ``(S, B, C, H, W)``."""
    scaled = (image - output.mean).square() / output.variance
    return -0.5 * (scaled + output.variance.log() + math.log(2.0 * math.pi))

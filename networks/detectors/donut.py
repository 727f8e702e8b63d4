"""A variational autoencoder for seasonal signals with gaps (Xu et al., WWW 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from monai.networks.nets.fullyconnectednet import VarFullyConnectedNet
from monai.utils.misc import ensure_tuple_rep
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from ..errors import ArgumentError
from .contract import Detector, Evidence, Inputs, Part, Stage, register, seen_samples

LEAST_STD = 1e-4
"""Added to each standard deviation, as in the authors' code."""

TERMS = ("loss", "recon_loss", "kl_loss")


class DonutOutput(NamedTuple):
    """Windows as the network saw them, and what it says of them.

    Attributes:
        window: normalised, ``(B, C, L)``; a missing sample is zero, or imputed.
        seen: whether a sample is there, ``(B, 1, L)`` bool.
        posterior: the approximate one, q(z|x), ``(B, Z)``.
        told: p(x|z) for samples of z, ``(S, B, C, L)``.
    """

    window: Tensor
    seen: Tensor
    posterior: Normal
    told: Normal


@register("donut")
class DonutDetector(Detector):
    """Donut: a VAE of windows whose missing samples are neither learnt nor believed.

    Xu et al., "Unsupervised Anomaly Detection via Variational Auto-Encoder for Seasonal KPIs in Web
    Applications", WWW 2018, arXiv 1802.03903. Missing samples enter as zeros. Training minimises
    minus equation 3, the modified ELBO of a window, in nats, with one sample of z,

        E_q [sum_w alpha_w log p(x_w|z) + beta log p(z) - log q(z|x)],

    where alpha_w is 0 for a missing sample and else 1, and beta is the mean of alpha; a share of
    the samples is missing by chance alone (missing data injection). In scoring, M times in turn,
    missing samples are replaced by those of a reconstruction drawn from p(x|z), z ~ q(z|x) (MCMC
    imputation). The score of a sample is -1/S sum_s log p(x_w|z_s). All noise of the scoring is
    drawn once and kept, so that a window has one score.

    Unlike the paper, which scores a window's last sample alone, every sample of a window gets its
    value; where windows overlap, their maps are to be blended. A missing sample, for which the
    paper gives none, gets what the model expects of one: the entropy of p(x_w|z).

    Args:
        in_channels: channels of the signal; they are missing together.
        image_size: samples L of a window.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        latent: numbers of the latent.
        injected: share of the samples that training makes missing, in [0, 1).
        samples: number S of samples in the score; the authors' code takes 1024.
        steps: number M of imputations.
        pool: share of the highest samples of the map whose mean is the window's score, in (0, 1].
        spatial_dims: 1, the only one.

    Raises:
        ArgumentError: for other dimensions, or for windows of another length.
    """

    dims = (1,)
    noise: Tensor
    latent_noise: Tensor
    window_noise: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | Sequence[int] = 120,
        hidden: Sequence[int] = (100, 100),
        latent: int = 8,
        injected: float = 0.01,
        samples: int = 128,
        steps: int = 10,
        pool: float = 0.01,
        spatial_dims: int = 1,
    ) -> None:
        if spatial_dims != 1:
            raise ArgumentError(
                f"spatial_dims: expected 1, got {spatial_dims}; donut is a method for signals. "
                "Choose another one for images, such as 'vae'."
            )
        (length,) = ensure_tuple_rep(image_size, 1)
        super().__init__(
            in_channels, spatial_dims=1, image_size=int(length), hidden=[int(h) for h in hidden],
            latent=int(latent), injected=float(injected), samples=int(samples), steps=int(steps),
            pool=float(pool),
        )  # fmt: skip
        size = in_channels * int(length)
        self.network = VarFullyConnectedNet(
            size, 2 * size, latent, hidden, list(hidden)[-2::-1], act="relu"
        )
        self.register_buffer("noise", torch.randn(samples, 1, latent))
        self.register_buffer("latent_noise", torch.randn(steps, 1, 1, latent))
        self.register_buffer("window_noise", torch.randn(steps, 1, in_channels, int(length)))

    @property
    def needs(self) -> tuple[str, ...]:
        """Where samples are missing."""
        return ("body",)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The reconstruction probability."""
        return (Part("probability", ("probability",), self.config["pool"]),)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One stage."""
        return (Stage("train", {"loss": list(self.network.parameters())}, TERMS),)

    def forward(
        self, inputs: Inputs, features: Any = None, stage: str | None = None
    ) -> DonutOutput:
        """Samples the latent: once, anew, in training; else, once imputed, with the kept noise."""
        if inputs.image.shape[2:] != self.window_noise.shape[3:]:
            raise ArgumentError(
                f"image: expected windows (B, C, {self.config['image_size']}), "
                f"got {tuple(inputs.image.shape)}."
            )
        seen = seen_samples(inputs)
        if stage is not None:
            seen = seen & (torch.rand(seen.shape, device=seen.device) >= self.config["injected"])
        window = torch.where(seen, self.normalize(inputs.image), 0.0)
        with torch.autocast(window.device.type, enabled=False):
            if stage is None:
                window = self.imputed(window, seen)
            posterior = self.encoded(window)
            noise = self.noise if stage is None else torch.randn_like(posterior.loc)[None]
            return DonutOutput(window, seen, posterior, self.decoded(_drawn(posterior, noise)))

    def imputed(self, window: Tensor, seen: Tensor) -> Tensor:
        """Windows ``(B, C, L)`` whose samples that are not ``seen`` come from reconstructions."""
        for latent_noise, window_noise in zip(self.latent_noise, self.window_noise, strict=True):
            told = self.decoded(_drawn(self.encoded(window), latent_noise))
            window = torch.where(seen, window, _drawn(told, window_noise)[0])
        return window

    def encoded(self, window: Tensor) -> Normal:
        """The approximate posterior q(z|x) ``(B, Z)`` for windows ``(B, C, L)``."""
        return _normal(*self.network.encode_forward(window.flatten(1)))

    def decoded(self, latent: Tensor) -> Normal:
        """The likelihood p(x|z) ``(S, B, C, L)`` for latents ``(S, B, Z)``."""
        both = self.network.decode_forward(latent.flatten(0, 1), use_sigmoid=False)
        shape = (*latent.shape[:2], 2, self.in_channels, -1)
        return _normal(*both.view(shape).unbind(dim=2))

    def loss(
        self, output: DonutOutput, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Minus the modified ELBO and its two terms, in nats per window."""
        likely = output.told.log_prob(output.window) * output.seen
        recon = -likely.sum(dim=(2, 3)).mean()
        beta = output.seen.float().mean(dim=2)
        prior = Normal(torch.zeros_like(output.posterior.loc), 1.0, validate_args=False)
        divergence = kl_divergence(output.posterior, prior)  # the cross-entropy less the entropy
        kl = (beta * divergence - (1.0 - beta) * output.posterior.entropy()).sum(dim=1).mean()
        return dict(zip(TERMS, (recon + kl, recon, kl), strict=True))

    def evidence(self, output: DonutOutput, inputs: Inputs) -> Evidence:
        """The negative reconstruction probability of each sample."""
        told = output.told
        likely = torch.where(output.seen, told.log_prob(output.window), -told.entropy())
        strange = -likely.mean(dim=(0, 2)).unsqueeze(1)
        return Evidence(
            {"probability": strange}, {}, self.restore(told.loc.mean(dim=0), inputs.image)
        )


def _normal(mean: Tensor, spread: Tensor) -> Normal:
    return Normal(mean, F.softplus(spread) + LEAST_STD, validate_args=False)


def _drawn(told: Normal, noise: Tensor) -> Tensor:
    return told.loc + noise * told.scale

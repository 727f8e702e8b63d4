"""DAGMM: the energy of a code and its reconstruction errors under a mixture that a network fits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from monai.networks.nets.autoencoder import AutoEncoder
from monai.networks.utils import eval_mode
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ArgumentError
from .contract import Batches, Detector, Evidence, Inputs, Part, Stage, register

CHANNELS = (16, 32, 64)
"""Of the compression network's blocks, each of which halves the image, as does the code's."""

PATCH = 2 ** (len(CHANNELS) + 1)
"""Side of the patch that a sample stands for, in pixels."""

HIDDEN = 10
"""Width of the estimation network."""

ENERGY, PENALTY = 0.1, 0.005
"""Weights of the energy and of the penalty of small variances, lambda_1 and lambda_2."""

RIDGE = 1e-4
"""Added to the variances, against singular covariances."""


class Mixture(NamedTuple):
    """A mixture of K Gaussians of D dimensions.

    Attributes:
        weight: ``(K,)``, of sum 1.
        mean: ``(K, D)``.
        whitening: inverse Cholesky factors of the covariances, ``(K, D, D)``.
    """

    weight: Tensor
    mean: Tensor
    whitening: Tensor


class DAGMMOutput(NamedTuple):
    """What the networks say of a batch.

    Attributes:
        reconstruction: ``(B, C, H, W)``, on the scale of the normalised image.
        sample: z of each patch, ``(B, H / 16, W / 16, D)``.
        membership: of each patch in the components, ``(B, H / 16, W / 16, K)``.
    """

    reconstruction: Tensor
    sample: Tensor
    membership: Tensor


@register("dagmm")
class DAGMM(Detector):
    """DAGMM (Zong, Song, Min, Cheng, Lumezanu, Cho, Chen, ICLR 2018, openreview BJJLHbb0-).

    An autoencoder gives x' and a code z_c; the sample z has, beside the code, the relative
    distance |x - x'| / |x| and the cosine similarity of x and x'. A network estimates memberships
    g = softmax(MLN(z)), which give weights phi_k, means mu_k and covariances S_k of a mixture, and

        E(z) = -log sum_k phi_k exp(-1/2 (z - mu_k)' S_k^-1 (z - mu_k)) / sqrt|2 pi S_k|.

    They minimise mean |x - x'|^2 + 0.1 mean E(z) + 0.005 sum_kd 1 / S_kdd, the mixture being that
    of the batch; at test it is that of all normal images. A sample x is a patch of the image here,
    so that the energy has a map; its pooled mean is the score.

    Args:
        in_channels: channels of the image.
        code: dimensions of z_c.
        components: K.
        pool: share of the highest energies whose mean is an image's score.
        contrast: see `Detector`.

    Raises:
        ArgumentError: for a number out of range.
    """

    weight: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        code: int = 4,
        components: int = 4,
        pool: float = 0.1,
        contrast: str = "none",
    ) -> None:
        if code < 1 or components < 1 or not 0.0 < pool <= 1.0:
            raise ArgumentError(
                "code, components, pool: expected at least 1, at least 1 and a share in (0, 1], "
                f"got {code}, {components}, {pool}."
            )
        super().__init__(
            in_channels, contrast, code=int(code), components=int(components), pool=float(pool)
        )
        self.autoencoder = AutoEncoder(
            2, in_channels, in_channels, (*CHANNELS, code), [2] * (len(CHANNELS) + 1), norm="batch"
        )
        size = code + 2
        self.estimate = nn.Sequential(
            nn.Linear(size, HIDDEN), nn.Tanh(), nn.Dropout(0.5), nn.Linear(HIDDEN, components)
        )
        self.register_buffer("weight", torch.full((components,), 1.0 / components))
        self.register_buffer("mean", torch.zeros(components, size))
        self.register_buffer("whitening", torch.eye(size).repeat(components, 1, 1))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The energy."""
        return (Part("energy", ("energy",), self.config["pool"]),)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Both networks together."""
        terms = ("loss", "residual", "energy")
        return (Stage("train", {"loss": list(self.parameters())}, terms),)

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Fits the mixture of all normal images, at the end."""
        super().prepare(batches, stage)
        if stage is not None:
            return
        with eval_mode(self):
            found = [self(inputs) for inputs in batches]
            sample = torch.cat([one.sample.flatten(0, 2) for one in found])
            membership = torch.cat([one.membership.flatten(0, 2) for one in found])
        mixture, _ = mixture_of(sample, membership)
        for name, value in mixture._asdict().items():
            getattr(self, name).copy_(value)

    def forward(
        self, inputs: Inputs, features: Any = None, stage: str | None = None
    ) -> DAGMMOutput:
        """Runs the autoencoder, and the estimation network on its samples."""
        image = self.normalize(inputs.image)
        code = self.autoencoder.encode(image)
        made = self.autoencoder.decode(code)
        patches, again = (
            F.pixel_unshuffle(one.float(), PATCH).movedim(1, -1) for one in (image, made)
        )
        apart = torch.linalg.vector_norm(patches - again, dim=-1)
        errors = torch.stack(
            [
                apart / torch.linalg.vector_norm(patches, dim=-1).clamp_min(1e-3),
                F.cosine_similarity(patches, again, dim=-1),
            ],
            dim=-1,
        )
        sample = torch.cat([code.float().movedim(1, -1), errors], dim=-1)
        return DAGMMOutput(made, sample, self.estimate(sample).float().softmax(dim=-1))

    def loss(
        self, output: DAGMMOutput, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The reconstruction's error, the energy under the batch's mixture, and the penalty."""
        error = F.mse_loss(output.reconstruction.float(), self.normalize(inputs.image))
        residual = error * (self.in_channels * PATCH**2)
        sample = output.sample.flatten(0, 2)
        mixture, variance = mixture_of(sample, output.membership.flatten(0, 2))
        energy = energy_of(sample, mixture).mean()
        penalty = variance.reciprocal().sum()
        loss = residual + ENERGY * energy + PENALTY * penalty
        return {"loss": loss, "residual": residual, "energy": energy}

    def evidence(self, output: DAGMMOutput, inputs: Inputs) -> Evidence:
        """The energy of each patch, and the reconstruction."""
        mixture = Mixture(self.weight, self.mean, self.whitening)
        energy = energy_of(output.sample, mixture).unsqueeze(1)
        return Evidence({"energy": energy}, {}, self.restore(output.reconstruction, inputs.image))


def mixture_of(sample: Tensor, membership: Tensor) -> tuple[Mixture, Tensor]:
    """The mixture that memberships give.

    Elementwise, so that autocast leaves it in 32 bits, and without waiting for the device.

    Args:
        sample: ``(N, D)``.
        membership: ``(N, K)``.

    Returns:
        The mixture and its variances ``(K, D)``.
    """
    total = membership.sum(dim=0).clamp_min(1e-6)
    share = (membership / total).unsqueeze(2)
    mean = (share * sample.unsqueeze(1)).sum(dim=0)
    apart = sample.unsqueeze(1) - mean
    covariance = torch.stack(
        [(share * apart * apart[..., axis, None]).sum(dim=0) for axis in range(apart.shape[2])],
        dim=1,
    )
    identity = torch.eye(apart.shape[2], device=sample.device, dtype=sample.dtype)
    covariance = covariance + RIDGE * identity
    lower, _ = torch.linalg.cholesky_ex(covariance)
    whitening = torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)
    return Mixture(total / len(sample), mean, whitening), covariance.diagonal(dim1=1, dim2=2)


def energy_of(sample: Tensor, mixture: Mixture) -> Tensor:
    """E(z) ``(...)`` of samples ``(..., D)``, see `DAGMM`."""
    apart = sample.unsqueeze(-2) - mixture.mean
    whitened = (mixture.whitening * apart.unsqueeze(-2)).sum(dim=-1)
    scale = mixture.whitening.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    constant = 0.5 * sample.shape[-1] * math.log(2.0 * math.pi)
    logs = mixture.weight.log() + scale - constant - 0.5 * whitened.square().sum(dim=-1)
    return -torch.logsumexp(logs, dim=-1)

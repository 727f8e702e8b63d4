"""The loss of AE-FLOW: L = a * L_flow + (1 - a) * L_recon (ICLR 2023, section 3.4).

L_flow = -log p(z') - log |det dz'/dz| grows with the number of latent dimensions, some 10^5 of
them, while L_recon is a mean over pixels. L_flow is therefore taken per dimension, in bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .aeflow import AEFlowOutput
from .errors import ArgumentError
from .flow import standard_normal_log_prob


class LossTerms(NamedTuple):
    """The loss and its parts, each a scalar tensor in at least 32 bits.

    Attributes:
        total: alpha * flow + (1 - alpha) * reconstruction.
        flow: negative log likelihood of the features, in bits per dimension.
        reconstruction: mean squared error of the reconstruction.
    """

    total: Tensor
    flow: Tensor
    reconstruction: Tensor


class AEFlowLoss(nn.Module):
    """The weighted sum of the flow's and the reconstruction's loss.

    Args:
        alpha: weight of the flow, in [0, 1]; the paper uses 0.5.

    Raises:
        ArgumentError: if alpha lies outside [0, 1].
    """

    def __init__(self, alpha: float = 0.5) -> None:
        """Keep the weight."""
        super().__init__()
        if not 0.0 <= alpha <= 1.0:
            raise ArgumentError(f"alpha: expected a number in [0, 1], got {alpha}; 0.5 is usual.")
        self.alpha = alpha

    def forward(self, output: AEFlowOutput, target: Tensor) -> Tensor:
        """Return the total loss; see `terms`."""
        return self.terms(output, target).total

    def terms(self, output: AEFlowOutput, target: Tensor) -> LossTerms:
        """Return the loss and its parts.

        Args:
            output: the network's output.
            target: the image to reconstruct, `(B, C, *s)`.

        Raises:
            ArgumentError: if the target's shape is not the reconstruction's.
        """
        if target.shape != output.reconstruction.shape:
            raise ArgumentError(
                f"target: expected shape {tuple(output.reconstruction.shape)}, got "
                f"{tuple(target.shape)}; give the image that the network was given."
            )
        flow = bits_per_dimension(output)
        reconstruction = F.mse_loss(
            _at_least_float32(output.reconstruction), _at_least_float32(target)
        )
        total = self.alpha * flow + (1.0 - self.alpha) * reconstruction
        return LossTerms(total, flow, reconstruction)


def bits_per_dimension(output: AEFlowOutput) -> Tensor:
    """Return the mean over the batch of -(log p(z') + log |det|) / (D ln 2), a scalar.

    D counts the latent dimensions of all strides together.

    Args:
        output: the network's output.
    """
    nats = [
        -(standard_normal_log_prob(latent) + _at_least_float32(log_det)).sum()
        for latent, log_det in zip(output.latents, output.log_dets, strict=True)
    ]
    dimensions = sum(latent.numel() for latent in output.latents)
    return torch.stack(nats).sum() / (dimensions * math.log(2.0))


def likelihoods(output: AEFlowOutput) -> tuple[list[Tensor], list[Tensor]]:
    """Return how likely every latent position is, in nats per dimension.

    Args:
        output: the network's output.

    Returns:
        Maps `(B, *s / stride)` per stride, in at least 32 bits: the likelihood of the latent under
        the prior, as in the paper's score, and that of the features, which adds the
        log-determinant.
    """
    prior, density = [], []
    for latent, log_det in zip(output.latents, output.log_dets, strict=True):
        likelihood, dimensions = standard_normal_log_prob(latent), latent.shape[1]
        prior.append(likelihood / dimensions)
        density.append((likelihood + _at_least_float32(log_det)) / dimensions)
    return prior, density


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))

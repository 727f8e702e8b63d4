"""AE-FLOW whose decoder sees a sample around the latent in training."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from ..errors import ArgumentError
from .aeflow import AEFlowDetector
from .contract import Inputs, Stage, register

INITIAL_LOG_VARIANCE = -4.0


class VariationalDecoder(nn.Module):
    """A decoder of samples in training, of their mean in evaluation.

    Args:
        decoder: maps the latent to the image.
        channels: of the latent.
        spatial_dims: 1, 2 or 3.
    """

    def __init__(self, decoder: nn.Module, channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.decoder = decoder
        self.log_variance = Conv[Conv.CONV, spatial_dims](channels, channels, kernel_size=1)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, INITIAL_LOG_VARIANCE)

    def forward(self, latent: Tensor) -> Tensor:
        """The image ``(B, C, *s)`` of a latent ``(B, channels, *s / stride)``."""
        if self.training:
            deviation = torch.exp(0.5 * self.log_variance(latent))
            latent = latent + deviation * torch.randn_like(latent)
        restored: Tensor = self.decoder(latent)
        return restored

    def divergence(self, latent: Tensor) -> Tensor:
        """KL divergence of the samples' distribution from N(0, I), in nats per dimension."""
        latent, log_variance = latent.float(), self.log_variance(latent).float()
        found: Tensor = 0.5 * (log_variance.exp() + latent.square() - 1.0 - log_variance)
        return found.mean()


@register("aeflow_variational")
class VariationalAEFlow(AEFlowDetector):
    """AE-FLOW with the bottleneck of a VAE (Kingma and Welling, ICLR 2014) before the decoder.

    In training the decoder is given z' + s(z') e, e ~ N(0, I), in place of the last stride's latent
    z', and the loss has divergence * KL(N(z', s^2) || N(0, I)) per dimension beside AE-FLOW's.
    Evidence is that of z'.

    Args:
        divergence: weight of the term.
        **options: see `AEFlowDetector`.

    Raises:
        ArgumentError: for a weight below 0.
    """

    def __init__(self, divergence: float = 0.01, **options: Any) -> None:
        if not divergence >= 0.0:
            raise ArgumentError(f"divergence: expected a number from 0 on, got {divergence}.")
        super().__init__(**options)
        self.config["divergence"] = float(divergence)
        channels = self.network.latent_channels[-1]
        self.network.decoder = VariationalDecoder(self.network.decoder, channels, self.spatial_dims)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those of AE-FLOW, the divergence told beside the other terms."""
        *before, train = super().stages
        return *before, train._replace(terms=(*train.terms, "divergence"))

    def loss(
        self, output: Any, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss of AE-FLOW with the divergence."""
        terms = super().loss(output, inputs, stage, mask)
        if stage == "train":
            decoder = self.network.decoder
            assert isinstance(decoder, VariationalDecoder)
            divergence = decoder.divergence(output.latents[-1])
            terms["loss"] = terms["loss"] + self.config["divergence"] * divergence
            terms["divergence"] = divergence
        return terms

"""A second component of the flow's prior, for anomalies of which a few are labelled.

FlowGMM (Izmailov, Kirichenko, Finzi, Wilson, ICML 2020): normal features are mapped to N(0, I),
anomalous ones to N(m, I) with a mean m that is drawn once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .flow import standard_normal_log_prob


class LabelledMixture(nn.Module):
    """The two components for one stride.

    Args:
        channels: of the latent.
        seed: of the mean.
    """

    mean: Tensor

    def __init__(self, channels: int, seed: int = 0) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(seed)
        self.register_buffer("mean", torch.randn(1, channels, 1, 1, generator=source))

    def log_odds(self, latent: Tensor) -> Tensor:
        """How much likelier latents ``(B, C, h, w)`` are anomalous, in nats, ``(B, h, w)``."""
        anomalous = standard_normal_log_prob(latent - self.mean)
        return anomalous - standard_normal_log_prob(latent)

    def centred(self, latent: Tensor, cover: Tensor) -> Tensor:
        """Latents less the means of their components: their densities are a standard normal's.

        Args:
            latent: ``(B, C, h, w)``.
            cover: share of each position that is anomalous, ``(B, 1, h, w)``; above a half it
                belongs to the anomalous component. So does all of an image that is known to hold
                an anomaly, where NaN stands for not knowing where.
        """
        return torch.where(cover <= 0.5, latent, latent - self.mean)

"""A second component of the flow's prior, for anomalies of which a few are labelled.

FlowGMM (Izmailov, Kirichenko, Finzi, Wilson, ICML 2020): normal features are mapped to N(0, I),
anomalous ones to N(m, I) with a mean m that is drawn once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LabelledMixture(nn.Module):
    """The two components for one stride.

    Args:
        channels: of the latent.
        seed: of the mean.
        spatial_dims: 1, 2 or 3.
    """

    mean: Tensor

    def __init__(self, channels: int, seed: int = 0, spatial_dims: int = 2) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(seed)
        shape = (1, channels, *([1] * spatial_dims))
        self.register_buffer("mean", torch.randn(shape, generator=source))

    def log_odds(self, latent: Tensor) -> Tensor:
        """How much likelier latents ``(B, C, *s)`` are anomalous, in nats, ``(B, *s)``."""
        # As a difference of two log densities, far from both, it would be one of rounding.
        return (self.mean * (latent - self.mean / 2)).sum(dim=1)

    def centred(self, latent: Tensor, cover: Tensor) -> Tensor:
        """Latents less the means of their components: their densities are a standard normal's.

        Args:
            latent: ``(B, C, *s)``.
            cover: share of each position that is anomalous, ``(B, 1, *s)``; above a half it
                belongs to the anomalous component. So does all of an image that is known to hold
                an anomaly, where NaN stands for not knowing where.
        """
        return torch.where(cover <= 0.5, latent, latent - self.mean)

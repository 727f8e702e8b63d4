"""What raw evidence means, learnt on held-out normal images; all of it in buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .levels import N_LEVELS, levels_of, ranks
from .pooling import compress

N_QUANTILES = 1001
"""Points of the grid of normal scores from which percentiles are read."""

LEAST_SCALE = 1e-6


class Moments(nn.Module):
    """Mean and scale of held-out normal images, per name.

    Args:
        names: what is standardised.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("mean", torch.zeros(len(self.names)))
        self.register_buffer("scale", torch.ones(len(self.names)))

    def fit(self, mean: Tensor, scale: Tensor) -> None:
        """Takes moments ``(N,)``; where there is no spread, values are only shifted."""
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > LEAST_SCALE, scale, torch.ones_like(scale)))

    def forward(self, name: str, value: Tensor) -> Tensor:
        """A value of any shape in standard deviations, large ones compressed, see `compress`."""
        index = self.names.index(name)
        return compress((value - self.mean[index]) / self.scale[index])


class Calibration(nn.Module):
    """Standardisation of maps, parts and score, and the thresholds, from held-out normal images.

    Args:
        maps: names of the detector's maps.
        parts: names of its parts.
    """

    score_mean: Tensor
    score_scale: Tensor
    quantiles: Tensor
    threshold: Tensor
    pixel_threshold: Tensor
    pixel_fpr: Tensor
    pixel_levels: Tensor
    n_normal: Tensor
    target_fpr: Tensor

    def __init__(self, maps: Sequence[str], parts: Sequence[str]) -> None:
        super().__init__()
        self.maps = Moments(maps)
        self.parts = Moments(parts)
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_scale", torch.ones(()))
        self.register_buffer("quantiles", torch.linspace(0.0, 1.0, N_QUANTILES))
        self.register_buffer("threshold", torch.tensor(float("inf")))
        self.register_buffer("pixel_threshold", torch.tensor(float("inf")))
        self.register_buffer("pixel_fpr", torch.zeros(()))
        self.register_buffer("pixel_levels", torch.full((N_LEVELS,), float("inf")))
        self.register_buffer("n_normal", torch.zeros((), dtype=torch.long))
        self.register_buffer("target_fpr", torch.zeros(()))

    @property
    def done(self) -> bool:
        """Whether held-out normal images have been seen."""
        return int(self.n_normal) > 0

    def standardize(self, score: Tensor) -> Tensor:
        """Fused scores ``(B,)`` in standard deviations above held-out normal images."""
        return (score - self.score_mean) / self.score_scale

    def percentile(self, score: Tensor) -> Tensor:
        """Rank of standardised scores ``(B,)`` among held-out normal images, in [0, 100]."""
        rank = torch.searchsorted(self.quantiles, score.contiguous(), right=True)
        return rank.to(score.dtype) * (100.0 / N_QUANTILES)

    def fit_parts(self, parts: Mapping[str, Tensor]) -> None:
        """Takes the raw evidence ``(N,)`` of held-out normal images, per part."""
        values = torch.stack([parts[name] for name in self.parts.names], dim=1)
        self.parts.fit(values.mean(dim=0), values.std(dim=0))

    def fit_scores(self, raw: Tensor, rank: int, target_fpr: float) -> Tensor:
        """Takes the fused scores ``(N,)`` of held-out normal images.

        Args:
            raw: the scores.
            rank: from 1, of the score that becomes the threshold.
            target_fpr: the rate that it stands for.

        Returns:
            The standardised scores ``(N,)``.
        """
        scale = raw.std(dim=0)
        self.score_mean.copy_(raw.mean())
        self.score_scale.copy_(torch.where(scale > LEAST_SCALE, scale, torch.ones_like(scale)))
        scores = self.standardize(raw)
        ordered = scores.sort().values
        grid = torch.linspace(0.0, 1.0, N_QUANTILES, device=ordered.device)
        self.quantiles.copy_(torch.quantile(ordered, grid))
        self.threshold.copy_(ordered[rank - 1])
        self.n_normal.fill_(len(ordered))
        self.target_fpr.fill_(target_fpr)
        return scores

    def fit_pixels(self, pixels: Tensor, pixel_fpr: float) -> None:
        """Takes fused map values ``(N,)`` of body pixels of held-out normal images."""
        ordered = pixels.sort().values
        asked = torch.tensor(pixel_fpr, dtype=torch.float64)
        self.pixel_threshold.copy_(ordered[ranks(asked, len(ordered))])
        self.pixel_levels.copy_(levels_of(ordered))
        self.pixel_fpr.fill_(pixel_fpr)

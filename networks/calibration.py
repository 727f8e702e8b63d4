"""What raw evidence means, learnt on held-out normal images; all of it in buffers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .conformal import TINY, conformal_rank, p_value, supported_rate
from .levels import N_LEVELS, levels_of, ranks
from .pooling import compress

N_QUANTILES = 1001
"""Points of the grid of normal scores from which percentiles and p-values are read."""

LEAST_SCALE = 1e-6

KNOTS = (-2.0, -1.0, 0.0, 1.0, 1.5, 2.0, 2.5, 3.0)
"""Normal deviates whose levels among normal pixels are kept, per map."""

STEEPER = 4.0
"""Times that deviates may rise more steeply from one level to the next: few pixels end early."""

LEAST_STEP = 1e-4
"""Least distance of two levels, as a share of that of the first and the last."""


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


class Deviates(nn.Module):
    """Ranks among the pixels of held-out normal images as normal deviates, per name.

    A value that a share of the normal pixels exceeds becomes the number that this share of a
    standard normal distribution exceeds. Maps of unlike tails then weigh alike in a mean, as in
    Stouffer's method; divided by their standard deviations, the heaviest tail would decide.

    Args:
        names: what is standardised.
    """

    levels: Tensor
    knots: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("knots", torch.tensor(KNOTS), persistent=False)
        self.register_buffer("levels", self.knots.repeat(len(self.names), 1))

    def fit(self, name: str, values: Tensor) -> None:
        """Takes values ``(N,)`` of normal pixels; without any spread they are only shifted."""
        knots = torch.tensor(KNOTS, dtype=torch.float64, device=values.device)
        ordered = values.double().sort().values
        levels = ordered[ranks(torch.special.ndtr(-knots), len(ordered))]
        spread = levels[-1] - levels[0]
        slopes = (levels.diff().clamp_min(LEAST_STEP * spread) / knots.diff()).tolist()
        for index in range(1, len(slopes)):
            slopes[index] = max(slopes[index], slopes[index - 1] / STEEPER)
        steps = (knots.diff() * knots.new_tensor(slopes)).cumsum(dim=0)
        increasing = torch.cat([levels[:1], levels[0] + steps])
        shifted = levels.median() + knots
        self.levels[self.names.index(name)] = torch.where(
            spread > LEAST_SCALE, increasing, shifted
        ).to(self.levels)

    def forward(self, name: str, value: Tensor) -> Tensor:
        """A value of any shape in standard deviations, large ones compressed, see `compress`."""
        levels, knots = self.levels[self.names.index(name)], self.knots
        slopes = knots.diff() / levels.diff().clamp_min(LEAST_SCALE**2)
        deviation = knots[-2] + slopes[-1] * (value - levels[-2])
        for index in reversed(range(len(knots) - 2)):  # ONNX has no search in sorted values
            below = knots[index] + slopes[index] * (value - levels[index])
            deviation = torch.where(value < levels[index + 1], below, deviation)
        return compress(deviation)


class Calibration(nn.Module):
    """Standardisation of maps, parts and score, and the thresholds, from held-out normal images.

    Args:
        maps: names of the detector's maps.
        parts: names of its parts.
        members: of an ensemble; none for a single method.
    """

    score_mean: Tensor
    score_scale: Tensor
    quantiles: Tensor
    threshold: Tensor
    pixel_threshold: Tensor
    pixel_fpr: Tensor
    pixel_levels: Tensor
    n_normal: Tensor
    n_patients: Tensor
    target_fpr: Tensor

    def __init__(
        self, maps: Sequence[str], parts: Sequence[str], members: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.maps = Deviates(maps)
        self.parts = Moments(parts)
        self.members = Moments(members) if members else None
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_scale", torch.ones(()))
        self.register_buffer("quantiles", torch.linspace(0.0, 1.0, N_QUANTILES))
        self.register_buffer("threshold", torch.tensor(float("inf")))
        self.register_buffer("pixel_threshold", torch.tensor(float("inf")))
        self.register_buffer("pixel_fpr", torch.zeros(()))
        self.register_buffer("pixel_levels", torch.full((N_LEVELS,), float("inf")))
        self.register_buffer("n_normal", torch.zeros((), dtype=torch.long))
        self.register_buffer("n_patients", torch.zeros((), dtype=torch.long))
        self.register_buffer("target_fpr", torch.zeros(()))

    @property
    def done(self) -> bool:
        """Whether held-out normal images have been seen."""
        return int(self.n_normal) > 0

    @property
    def limits(self) -> dict[str, float | int]:
        """Threshold, rate and number of normal images; a GPU is waited for."""
        threshold, rate = float(self.threshold), float(self.target_fpr)
        return {"threshold": threshold, "target_fpr": rate, "n_normal": int(self.n_normal)}

    def standardize(self, score: Tensor) -> Tensor:
        """Fused scores ``(B,)`` in standard deviations above held-out normal images."""
        return (score - self.score_mean) / self.score_scale

    def percentile(self, score: Tensor) -> Tensor:
        """Rank of standardised scores ``(B,)`` among held-out normal images, in [0, 100]."""
        rank = torch.searchsorted(self.quantiles, score.contiguous(), right=True)
        return rank.to(score.dtype) * (100.0 / N_QUANTILES)

    def p_value(self, score: Tensor) -> Tensor:
        """Chance that a normal image scores as high as standardised scores ``(B,)``, at most."""
        below = torch.searchsorted(self.quantiles, score.contiguous()).to(score.dtype)
        reached = 1.0 - (below - 1.0).clamp_min(0.0) / (N_QUANTILES - 1)
        return p_value(self.n_patients * reached, int(self.n_patients))

    def fit_parts(self, parts: Mapping[str, Tensor]) -> None:
        """Takes the raw evidence ``(N,)`` of held-out normal images, per part."""
        values = torch.stack([parts[name] for name in self.parts.names], dim=1)
        self.parts.fit(values.mean(dim=0), values.std(dim=0))

    def fit_scores(self, raw: Tensor, weights: Tensor, target_fpr: float) -> Tensor:
        """Takes the fused scores ``(N,)`` of held-out normal images.

        Args:
            raw: the scores.
            weights: what each counts, see `patient_weights`.
            target_fpr: the rate that is asked for; the threshold is that of the `supported_rate`.

        Returns:
            The standardised scores ``(N,)``.
        """
        scale = raw.std(dim=0)
        self.score_mean.copy_(raw.mean())
        self.score_scale.copy_(torch.where(scale > LEAST_SCALE, scale, torch.ones_like(scale)))
        scores = self.standardize(raw)
        ordered, order = scores.sort()
        weights = weights[order.cpu()]
        shares = weights.cumsum(0) / weights.sum()
        grid = torch.linspace(0.0, 1.0, N_QUANTILES, dtype=torch.float64) - TINY
        places = torch.searchsorted(shares, grid).clamp_max(len(ordered) - 1)
        self.quantiles.copy_(ordered[places.to(ordered.device)])
        self.n_normal.fill_(len(ordered))
        self.n_patients.fill_(round(float(weights.sum())))
        rate = supported_rate(int(self.n_patients), target_fpr)
        self.threshold.copy_(ordered[conformal_rank(weights, rate)])
        self.target_fpr.fill_(rate)
        return scores

    def fit_members(self, raw: Tensor) -> None:
        """Takes the fused scores ``(N, M)`` of held-out normal images by each member."""
        if self.members is not None:
            self.members.fit(raw.mean(dim=0), raw.std(dim=0))

    def of_members(self, raw: Tensor) -> Tensor:
        """Fused scores ``(B, M)`` of the members, each in its own standard deviations."""
        return raw if self.members is None else (raw - self.members.mean) / self.members.scale

    def retarget(self, target_fpr: float) -> None:
        """Moves the threshold to another rate, or to the least that the patients support."""
        patients = int(self.n_patients)
        rate = supported_rate(patients, target_fpr)
        level = (1.0 - rate) * (patients + 1) / patients * (N_QUANTILES - 1)
        self.threshold.copy_(self.quantiles[min(math.ceil(level - TINY), N_QUANTILES - 1)])
        self.target_fpr.fill_(rate)

    def fit_pixels(self, pixels: Tensor, pixel_fpr: float) -> None:
        """Takes fused map values ``(N,)`` of body pixels of held-out normal images."""
        ordered = pixels.sort().values
        asked = torch.tensor(pixel_fpr, dtype=torch.float64)
        self.pixel_threshold.copy_(ordered[ranks(asked, len(ordered))])
        self.pixel_levels.copy_(levels_of(ordered))
        self.pixel_fpr.fill_(pixel_fpr)

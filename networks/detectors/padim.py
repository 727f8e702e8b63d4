"""PaDiM: a Gaussian of the features at each position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..contrast import gaussian_blur
from ..errors import ArgumentError
from ..spatial import breadth, size_of
from .contract import Batches, Evidence, Inputs, Part, register
from .pretrained import PretrainedDetector, stacked

EPSILON = 0.01
"""Added to the variances, in the squared units of the features."""

SMOOTHING = 4 / 224
"""Standard deviation of the Gaussian over the map, as a share of the image's `breadth`."""


class PaDiMOutput(NamedTuple):
    """The Mahalanobis distance of each position.

    Attributes:
        distance: ``(B, 1, *s / stride)``, at the finest stride.
    """

    distance: Tensor


@register("padim")
class PaDiM(PretrainedDetector):
    """PaDiM (Defard, Setkov, Loesch, Audigier, ICPR workshops 2020, arXiv 2011.08785).

    The features of all strides are concatenated on the grid of the finest, each position with the
    vector of the coarser cell it lies in, and a random subset of their channels is kept. Over the
    N normal images each position p has the mean m_p and the covariance

        S_p = 1 / (N - 1) sum_i (x_ip - m_p)(x_ip - m_p)' + 0.01 I,

    and the anomaly is M(x_p) = sqrt((x_p - m_p)' S_p^-1 (x_p - m_p)), smoothed as in the authors'
    code. An image's score is the maximum of its map.

    Args:
        features: channels kept.
        grid: size of the finest features, as `prepare` found them.
        strides: of the features.
        **options: see `PretrainedDetector`.

    Raises:
        ArgumentError: for fewer than one channel, or for images of another size than it was
            fitted on.
    """

    kept: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(
        self,
        features: int = 100,
        grid: Sequence[int] = (0, 0),
        strides: Sequence[int] = (4, 8, 16),
        **options: Any,
    ) -> None:
        super().__init__(strides=strides, **options)
        if features < 1:
            raise ArgumentError(f"features: expected at least 1, got {features}.")
        self.config.update(features=int(features), grid=tuple(grid))
        drawn = torch.randperm(sum(self.channels), generator=torch.Generator().manual_seed(0))
        self.register_buffer("kept", drawn[:features].sort().values)
        size, positions = len(self.kept), math.prod(grid)
        self.register_buffer("mean", torch.zeros(positions, size))
        self.register_buffer("whitening", torch.zeros(positions, size, size))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The largest distance, and the map of all."""
        return (Part("distance", ("distance",)),)

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Fits the Gaussians, at the end."""
        super().prepare(batches, stage)
        if stage is not None:
            return
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        with torch.no_grad():
            for inputs in batches:
                found = self._embed(self.encode(inputs))
                self.config["grid"] = size_of(found)
                vectors = found.flatten(2).permute(2, 0, 1).double()
                total = total.to(vectors) + vectors.sum(dim=1)
                squares = squares.to(vectors) + vectors.mT @ vectors
                count += vectors.shape[1]
        mean = total / count
        spread = squares - count * mean.unsqueeze(2) * mean.unsqueeze(1)
        identity = torch.eye(mean.shape[1]).to(mean)
        lower = torch.linalg.cholesky(spread / max(1, count - 1) + EPSILON * identity)
        self.mean = mean.float()
        self.whitening = torch.linalg.solve_triangular(lower, identity, upper=False).float()

    def from_features(self, features: Sequence[Tensor]) -> PaDiMOutput:
        """The distance of each position from its Gaussian."""
        found = self._embed(features)
        grid = size_of(found)
        if grid != tuple(self.config["grid"]):
            sides, wanted = (
                " x ".join(str(self.strides[0] * side) for side in one)
                for one in (grid, self.config["grid"])
            )
            raise ArgumentError(f"image: expected {wanted} pixels as in the fit, got {sides}.")
        vectors = found.flatten(2).transpose(1, 2) - self.mean
        whitened = torch.einsum("pde,bpe->bpd", self.whitening, vectors)
        distance = torch.linalg.vector_norm(whitened, dim=2)
        return PaDiMOutput(distance.unflatten(1, grid).unsqueeze(1))

    def evidence(self, output: PaDiMOutput, inputs: Inputs) -> Evidence:
        """The smoothed map and its maximum."""
        distance = gaussian_blur(output.distance, SMOOTHING * breadth(output.distance))
        return Evidence({"distance": distance}, {"distance": distance.flatten(1).amax(dim=1)})

    def _embed(self, features: Sequence[Tensor]) -> Tensor:
        return stacked(features, F.interpolate).index_select(1, self.kept)  # to the nearest

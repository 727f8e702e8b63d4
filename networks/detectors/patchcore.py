"""PatchCore: the distance of each patch's features to the nearest of a memory of normal ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from monai.networks.layers.factories import Pool
from torch import Tensor
from torch.nn import functional as F

from ..contrast import gaussian_blur
from ..errors import ArgumentError
from ..spatial import breadth, resized, size_of
from .contract import Batches, Evidence, Inputs, Part, register
from .pretrained import PretrainedDetector, stacked

NEIGHBOURS = 9
"""Patches of the memory around the nearest one, itself among them, that weigh a score."""

CANDIDATES = 25
"""Patches, per one of the memory, from which it is chosen."""

PROJECTED = 128
"""Dimensions in which it is chosen."""

FAST = "use_mm_for_euclid_dist"
"""How distances are found that only rank: by matrix products, whatever the shapes."""

SMOOTHING = 4 / 224
"""Standard deviation of the Gaussian over the map, as a share of the image's `breadth`."""


class PatchCoreOutput(NamedTuple):
    """How far the patches lie from the memory.

    Attributes:
        distance: to the nearest one, ``(B, 1, *s / stride)``, at the finest stride.
        score: the weighted distance of the farthest patch, ``(B,)``.
    """

    distance: Tensor
    score: Tensor


@register("patchcore")
class PatchCore(PretrainedDetector):
    """PatchCore (Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler, CVPR 2022, arXiv 2106.08265).

    Features become aware of their neighbourhood by the mean over 3 x 3 positions, and those of
    coarser strides join them by bilinear interpolation. The memory M is a coreset of the normal
    images' patches: of those drawn, the one farthest from the chosen ones is chosen next, by its
    distance in a random projection. With m the nearest patch of M to p, d(p) = |p - m|; of the
    patch p* with the largest d, and m* its nearest, an image's score is

        s = (1 - exp |p* - m*| / sum_{m in N(m*)} exp |p* - m|) d(p*),

    N(m*) being the nearest patches of M to m*. The map of d is smoothed.

    Args:
        bank_size: most patches in the memory; the paper keeps a share of all patches.
        size: patches in it, as `prepare` found them.
        strides: of the features.
        **options: see `PretrainedDetector`.

    Raises:
        ArgumentError: for a memory of less than two patches.
    """

    bank: Tensor

    def __init__(
        self,
        bank_size: int = 2000,
        size: int = 0,
        strides: Sequence[int] = (8, 16),
        **options: Any,
    ) -> None:
        super().__init__(strides=strides, **options)
        if bank_size < 2:
            raise ArgumentError(f"bank_size: expected at least 2, got {bank_size}.")
        self.config.update(bank_size=int(bank_size), size=int(size))
        self.register_buffer("bank", torch.zeros(size, sum(self.channels)))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The weighted distance of the farthest patch, and the map of all."""
        return (Part("distance", ("distance",)),)

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Fills the memory, at the end, from patches drawn evenly from all images."""
        super().prepare(batches, stage)
        if stage is not None:
            return
        source = torch.Generator().manual_seed(0)
        keys = torch.empty(0)
        drawn = self.bank[:0]
        with torch.no_grad():
            for inputs in batches:
                found = self._embed(self.encode(inputs)).flatten(2).transpose(1, 2).flatten(0, 1)
                keys = torch.cat([keys, torch.rand(len(found), generator=source)])
                most = min(len(keys), CANDIDATES * self.config["bank_size"])
                keys, order = keys.topk(most)
                drawn = torch.cat([drawn, found])[order.to(found.device)]
        self.bank = drawn[coreset(drawn, self.config["bank_size"], source)]
        self.config["size"] = len(self.bank)

    def from_features(self, features: Sequence[Tensor]) -> PatchCoreOutput:
        """The distances of all patches."""
        found = self._embed(features)
        patches = found.flatten(2).transpose(1, 2)
        nearest = torch.cdist(patches, self.bank, compute_mode=FAST).argmin(dim=2)
        # Not the smallest of those distances, whose rounding depends on the batch.
        distance = torch.linalg.vector_norm(patches - self.bank[nearest], dim=2)
        farthest, where = distance.max(dim=1)
        patch = patches.gather(1, where[:, None, None].expand(-1, 1, patches.shape[2]))
        own = self.bank[nearest.gather(1, where[:, None]).squeeze(1)]
        count = min(NEIGHBOURS, len(self.bank))
        around = torch.cdist(own, self.bank, compute_mode=FAST).topk(count, largest=False).indices
        apart = torch.linalg.vector_norm(patch - self.bank[around], dim=2)
        others = (apart - farthest[:, None]).exp().sum(dim=1)
        score = (1.0 - 1.0 / others) * farthest
        return PatchCoreOutput(distance.unflatten(1, size_of(found)).unsqueeze(1), score)

    def evidence(self, output: PatchCoreOutput, inputs: Inputs) -> Evidence:
        """The smoothed map, and the score."""
        distance = gaussian_blur(output.distance, SMOOTHING * breadth(output.distance))
        return Evidence({"distance": distance}, {"distance": output.score})

    def _embed(self, features: Sequence[Tensor]) -> Tensor:
        dims = self.spatial_dims
        around = Pool[Pool.AVG, dims](kernel_size=3, stride=1)  # whose own padding must be thinner
        aware = [around(F.pad(one, [1, 1] * dims)) for one in features]
        return stacked(aware, resized)


def coreset(vectors: Tensor, size: int, source: torch.Generator) -> Tensor:
    """Greedily chooses vectors so that none lies far from a chosen one.

    Args:
        vectors: ``(N, D)``.
        size: vectors to choose, at most.
        source: of the random projection.

    Returns:
        Their indices, ``(min(N, size),)``.
    """
    projection = torch.randn(vectors.shape[1], PROJECTED, generator=source)
    projected = vectors @ projection.to(vectors)
    squares = projected.square().sum(dim=1)
    nearest = torch.full_like(squares, torch.inf)  # squared distances
    chosen = []
    for _ in range(min(len(vectors), size)):
        one = nearest.argmax()
        apart = squares + squares[one] - 2.0 * (projected @ projected[one])
        nearest = torch.minimum(nearest, apart).index_fill(0, one, -torch.inf)
        chosen.append(one)
    return torch.stack(chosen)

"""FastFlow: the likelihood of the features under two-dimensional normalizing flows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from ..errors import ArgumentError
from ..flow import NormalizingFlow, standard_normal_log_prob
from ..subnets import SubnetFactory
from .contract import Batches, Evidence, Inputs, Part, Stage, register
from .pretrained import PretrainedDetector

INITIAL_IMAGES = 64
"""Images from which the flows' ActNorms are initialised."""


class FastFlowOutput(NamedTuple):
    """What the flows say of a batch.

    Attributes:
        log_likelihood: of the features, per stride and position, ``(B, *s / stride)``, in nats.
    """

    log_likelihood: list[Tensor]


@register("fastflow")
class FastFlow(PretrainedDetector):
    """FastFlow (Yu, Zheng, Wang, Li, Wu, Zhao, Wu, 2021, arXiv 2111.07677).

    Each stride has a flow z = f(x) of couplings whose sub-networks are convolutions of 3 x 3 and
    1 x 1 in turn, which keep the features' two dimensions. It learns by

        -log p(x) = -log p(z) - log |det dz/dx|,  p(z) = N(0, I),

    summed over the strides, here per dimension. The anomaly of a position is its share of
    -log p(x), per channel; the strides' maps are averaged. ActNorm takes the place of the paper's
    LayerNorm, so that images of any size will do.

    Args:
        strides: of the features.
        steps: couplings of each flow.
        ratio: width of a sub-network per channel that it reads.
        pool: share of the least likely positions whose mean is an image's score.
        **options: see `PretrainedDetector`.

    Raises:
        ArgumentError: for a number out of range.
    """

    def __init__(
        self,
        strides: Sequence[int] = (4, 8, 16),
        steps: int = 8,
        ratio: float = 1.0,
        pool: float = 0.03,
        **options: Any,
    ) -> None:
        super().__init__(strides=strides, **options)
        if not ratio > 0.0 or not 0.0 < pool <= 1.0:
            raise ArgumentError(
                f"ratio, pool: expected a positive number and a share in (0, 1], got {ratio}, "
                f"{pool}."
            )
        self.config.update(steps=int(steps), ratio=float(ratio), pool=float(pool))
        self.flows = nn.ModuleList(
            NormalizingFlow(
                channels,
                steps,
                alternating(ratio, self.spatial_dims),
                scale="clamped_exp",
                spatial_dims=self.spatial_dims,
            )
            for channels in self.channels
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The least likely positions, over all strides."""
        maps = tuple(f"flow{stride}" for stride in self.strides)
        return (Part("flow", maps, self.config["pool"]),)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Pre-training of the encoder, then training of the flows."""
        found = {"loss": list(self.flows.parameters())}
        return *super().stages, Stage("train", found, ("loss",), cached=True)

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Initialises the flows before they are trained."""
        super().prepare(batches, stage)
        if stage == "train":
            with torch.no_grad():
                features = self.encode(batches.spread(INITIAL_IMAGES))
                for flow, one in zip(self._flows, features, strict=True):
                    flow.initialize(one)

    def from_features(self, features: Sequence[Tensor]) -> FastFlowOutput:
        """The likelihood of each position."""
        found = []
        for flow, one in zip(self._flows, features, strict=True):
            latent, log_det = flow(one)
            found.append(standard_normal_log_prob(latent) + log_det)
        return FastFlowOutput(found)

    def loss(
        self, output: Any, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The negative log likelihood of the features, in nats per dimension."""
        if stage == "pretrain":
            return super().loss(output, inputs, stage, mask)
        nats = [
            -one.mean() / channels
            for one, channels in zip(output.log_likelihood, self.channels, strict=True)
        ]
        return {"loss": torch.stack(nats).sum()}

    def evidence(self, output: FastFlowOutput, inputs: Inputs) -> Evidence:
        """How unlikely each position is, per stride."""
        found = zip(self.parts[0].maps, output.log_likelihood, self.channels, strict=True)
        return Evidence({name: -one.unsqueeze(1) / size for name, one, size in found}, {})

    @property
    def _flows(self) -> Sequence[NormalizingFlow]:
        return cast("Sequence[NormalizingFlow]", self.flows)


def alternating(ratio: float, spatial_dims: int = 2) -> SubnetFactory:
    """Sub-networks of two convolutions of 3 x 3, then of 1 x 1, and so on.

    Args:
        ratio: their width per channel that they read.
        spatial_dims: 1, 2 or 3.
    """
    sizes, convolution = itertools.cycle((3, 1)), Conv[Conv.CONV, spatial_dims]

    def build(in_channels: int, out_channels: int) -> nn.Module:
        size, hidden = next(sizes), max(1, round(ratio * in_channels))
        last = convolution(hidden, out_channels, size, padding="same")
        nn.init.zeros_(last.weight)  # so that an untrained flow is a permutation
        nn.init.zeros_(last.bias)
        first = convolution(in_channels, hidden, size, padding="same")
        return nn.Sequential(first, nn.ReLU(inplace=True), last)

    return build

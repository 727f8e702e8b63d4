"""Deep SVDD: the distance from the centre of a sphere that normal images are drawn into."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Conv
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from ..choices import choose
from ..errors import ArgumentError
from ..spatial import axes_of
from .contract import Batches, Detector, Evidence, Inputs, Part, Stage, register

BOUNDARIES = ("hard", "soft")
"""Whether all normal images are drawn to the centre, or only those outside of the sphere."""

CHANNELS = (32, 64, 128, 128)
"""Of the blocks, each of which halves the image."""

LEAST_CENTRE = 0.1
"""Smallest absolute coordinate of the centre: one at 0 could be met by weights of 0."""


class DeepSVDDOutput(NamedTuple):
    """Squared distances from the centre.

    Attributes:
        distance: of the image, ``(B,)``.
        local: of each position, ``(B, 1, *s / 16)``.
    """

    distance: Tensor
    local: Tensor


@register("deep_svdd")
class DeepSVDD(Detector):
    """Deep SVDD (Ruff, Vandermeulen, Görnitz, Deecke, Siddiqui, Binder, Müller, Kloft, ICML 2018).

    With d(x) = |phi(x) - c|^2, the network phi minimises with a ``hard`` boundary

        1 / n sum_i d(x_i),

    and with a ``soft`` one, of which about a share nu of the images stays outside,

        R^2 + 1 / (nu n) sum_i max(0, d(x_i) - R^2).

    The paper's penalty of the weights is the optimiser's weight decay. R^2 is what minimises the
    objective of the batch, the 1 - nu quantile of d, and in the end that of all normal images. The
    centre c is the mean of the untrained network's outputs. No layer has a bias, nor has
    BatchNorm, with which the network could learn the constant c (proposition 2). The score is
    d(x), less R^2 with a soft boundary. phi(x) is the mean of a linear map of all positions of
    the last block, so that images of any size will do, and the map is their own d.

    Args:
        in_channels: channels of the image.
        boundary: ``hard`` or ``soft``.
        nu: share of the normal images outside a soft boundary, in (0, 1).
        size: dimensions of phi.
        contrast: see `Detector`.
        spatial_dims: see `Detector`.

    Raises:
        ArgumentError: for an unknown boundary or a nu out of range.
    """

    dims = (1, 2, 3)
    centre: Tensor
    squared_radius: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        boundary: str = "hard",
        nu: float = 0.1,
        size: int = 128,
        contrast: str = "none",
        spatial_dims: int = 2,
    ) -> None:
        choose("boundary", boundary, dict.fromkeys(BOUNDARIES))
        if not 0.0 < nu < 1.0:
            raise ArgumentError(f"nu: expected a share in (0, 1), got {nu}.")
        super().__init__(
            in_channels, contrast, spatial_dims, boundary=boundary, nu=float(nu), size=int(size)
        )
        blocks = [
            Convolution(
                spatial_dims, before, after, strides=2, kernel_size=5, act="LEAKYRELU", bias=False,
                norm=("batch", {"affine": False}),
            )
            for before, after in zip((in_channels, *CHANNELS), CHANNELS, strict=False)
        ]  # fmt: skip
        last = Conv[Conv.CONV, spatial_dims](CHANNELS[-1], size, kernel_size=1, bias=False)
        self.network = nn.Sequential(*blocks, last)
        self.register_buffer("centre", torch.zeros(size, *[1] * spatial_dims))
        self.register_buffer("squared_radius", torch.zeros(()))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The distance of the image, and the map of its positions'."""
        return (Part("distance", ("distance",)),)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The training of the network."""
        return (Stage("train", {"loss": list(self.network.parameters())}, ("loss",)),)

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Fixes the centre before the training, and the radius after it."""
        super().prepare(batches, stage)
        with eval_mode(self):
            if stage is None:
                distance = torch.cat([self(inputs).distance for inputs in batches])
                if self.config["boundary"] == "soft":
                    self.squared_radius.copy_(distance.quantile(1.0 - self.config["nu"]))
                return
            found = [self.network(self.normalize(inputs.image)) for inputs in batches]
            mean = torch.cat([one.mean(dim=axes_of(one)) for one in found]).mean(dim=0)
            side = torch.where(mean < 0, -1.0, 1.0)
            centre = side * mean.abs().clamp_min(LEAST_CENTRE)
            self.centre.copy_(centre.reshape(self.centre.shape))

    def forward(
        self, inputs: Inputs, features: Any = None, stage: str | None = None
    ) -> DeepSVDDOutput:
        """The distances."""
        apart = self.network(self.normalize(inputs.image)).float() - self.centre
        whole = apart.mean(dim=axes_of(apart)).square().sum(dim=1)
        return DeepSVDDOutput(whole, apart.square().sum(dim=1, keepdim=True))

    def loss(
        self, output: DeepSVDDOutput, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The objective of the boundary."""
        distance = output.distance
        if self.config["boundary"] == "hard":
            return {"loss": distance.mean()}
        nu = self.config["nu"]
        squared = distance.detach().quantile(1.0 - nu)
        return {"loss": squared + (distance - squared).clamp_min(0.0).mean() / nu}

    def evidence(self, output: DeepSVDDOutput, inputs: Inputs) -> Evidence:
        """How far image and positions lie outside of the sphere."""
        return Evidence(
            {"distance": output.local}, {"distance": output.distance - self.squared_radius}
        )

"""A toy: how far an image lies from the mean of the normal ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from networks.detectors import Batches, Detector, Evidence, Inputs, Part, register


class Output(NamedTuple):
    """The squared distance to the mean image, ``(B, 1, H, W)``."""

    distance: Tensor


@register("mean_image")
class MeanImage(Detector):
    """Fits the mean of the normalised normal images; nothing is trained.

    Args:
        in_channels: channels of the image.
        image_size: side of the image, in pixels.
        pool: share of the farthest pixels whose mean is the evidence.
    """

    mean_image: Tensor

    def __init__(self, in_channels: int = 1, image_size: int = 32, pool: float = 0.1) -> None:
        super().__init__(in_channels, image_size=int(image_size), pool=float(pool))
        self.register_buffer("mean_image", torch.zeros(in_channels, image_size, image_size))

    @property
    def parts(self) -> tuple[Part, ...]:
        """One part, with a map."""
        return (Part("distance", ("distance",), self.config["pool"]),)

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Fits the mean image."""
        super().prepare(batches, stage)
        images = torch.cat([self.normalize(one.image) for one in batches])
        self.mean_image.copy_(images.mean(dim=0))

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> Output:
        """The distance of each pixel."""
        difference = self.normalize(inputs.image) - self.mean_image
        return Output(difference.square().mean(dim=1, keepdim=True))

    def evidence(self, output: Output, inputs: Inputs) -> Evidence:
        """The distance, and the mean image as what was expected."""
        expected = self.restore(self.mean_image[None], inputs.image).expand_as(inputs.image)
        return Evidence({"distance": output.distance}, {}, expected)

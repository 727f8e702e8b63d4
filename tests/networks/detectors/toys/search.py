"""A toy that searches at test time: the mixture of two templates nearest to the image."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from networks.detectors import Batches, Detector, Evidence, Inputs, Part, register

STEPS = 20
RATE = 0.4


class Output(NamedTuple):
    """The normalised image ``(B, C, H, W)``."""

    image: Tensor


@register("search")
class Search(Detector):
    """Descends on the weights of two templates, from fixed starts.

    Args:
        in_channels: channels of the image.
        image_size: side of the image, in pixels.
    """

    exportable = False
    templates: Tensor

    def __init__(self, in_channels: int = 1, image_size: int = 32) -> None:
        super().__init__(in_channels, image_size=int(image_size))
        self.register_buffer("templates", torch.zeros(2, in_channels, image_size, image_size))

    @property
    def parts(self) -> tuple[Part, ...]:
        """What no mixture explains."""
        return (Part("unexplained", ("unexplained",), 0.2),)

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Takes the means of two halves of the normal images."""
        super().prepare(batches, stage)
        images = torch.cat([self.normalize(one.image) for one in batches])
        halves = images.tensor_split(2)
        self.templates.copy_(torch.stack([half.mean(dim=0) for half in halves]))

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> Output:
        """Normalises."""
        return Output(self.normalize(inputs.image))

    def evidence(self, output: Output, inputs: Inputs) -> Evidence:
        """The residual that is left after the search."""
        with torch.enable_grad():
            weights = torch.full((len(output.image), 2), 0.5, device=output.image.device)
            weights.requires_grad_()
            for _ in range(STEPS):
                lost = (self._mixture(weights) - output.image).square().mean(dim=(1, 2, 3)).sum()
                (gradient,) = torch.autograd.grad(lost, weights)
                weights = (weights - RATE * gradient).detach().requires_grad_()
        found = self._mixture(weights.detach())
        residual = (found - output.image).abs().mean(dim=1, keepdim=True)
        return Evidence({"unexplained": residual}, {}, self.restore(found, inputs.image))

    def _mixture(self, weights: Tensor) -> Tensor:
        return torch.einsum("bk,kchw->bchw", weights, self.templates)

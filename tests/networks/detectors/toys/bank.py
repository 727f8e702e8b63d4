"""A toy: the distance of each patch to the nearest one of a bank, whose size the data decide."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from networks.detectors import Batches, Detector, Evidence, Inputs, Part, register

PATCH = 8


class Output(NamedTuple):
    """The distance to the bank, ``(B, 1, h, w)``."""

    distance: Tensor


@register("bank")
class Bank(Detector):
    """Keeps patches of a fifth of the normal images.

    Args:
        in_channels: channels of the image.
        size: patches in the bank, as `prepare` found it.
    """

    bank: Tensor

    def __init__(self, in_channels: int = 1, size: int = 0) -> None:
        super().__init__(in_channels, size=int(size))
        self.register_buffer("bank", torch.zeros(size, in_channels * PATCH * PATCH))

    @property
    def parts(self) -> tuple[Part, ...]:
        """A part with a map, and one that is a value alone."""
        return Part("patches", ("patches",), 0.1), Part("farthest")

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Fills the bank."""
        super().prepare(batches, stage)
        found = torch.cat([self._patches(one).flatten(0, 1) for one in batches])
        self.bank = found[::5].clone()
        self.config["size"] = len(self.bank)

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> Output:
        """The distance of each patch."""
        side = inputs.image.shape[-2] // PATCH, inputs.image.shape[-1] // PATCH
        distance = torch.cdist(
            self._patches(inputs), self.bank, compute_mode="donot_use_mm_for_euclid_dist"
        ).amin(dim=2)
        return Output(distance.unflatten(1, side).unsqueeze(1))

    def evidence(self, output: Output, inputs: Inputs) -> Evidence:
        """The distances, and the largest of an image."""
        farthest = output.distance.flatten(1).amax(dim=1)
        return Evidence({"patches": output.distance}, {"farthest": farthest})

    def _patches(self, inputs: Inputs) -> Tensor:
        return F.unfold(self.normalize(inputs.image), PATCH, stride=PATCH).transpose(1, 2)

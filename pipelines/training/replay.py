"""Steps of a training whose kernels a GPU launches at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from networks.recorded import Recorded, Tensors


class Replay:
    """Runs a step as a CUDA graph, see `Recorded`.

    Args:
        step: of a batch on the GPU and a source of randomness. It sets the gradients, and is as a
            recorded function has to be.
        parameters: whose gradients it sets.
        device: the GPU.

    Raises:
        RuntimeError: when called, if the GPU cannot record the step.
    """

    def __init__(
        self,
        step: Callable[[Tensors, torch.Generator], Tensors],
        parameters: Sequence[Tensor],
        device: torch.device,
    ) -> None:
        self.step = step
        self.parameters = parameters
        self.source = torch.Generator(device)
        self.recorded = Recorded(self._run, device, self.source)

    def __call__(self, batch: Tensors, seed: int) -> Tensors:
        """What the step finds in a batch; the next call overwrites it."""
        there = self.source.device.type
        self.source.manual_seed(seed)
        told, gradients = self.recorded(
            {name: value for name, value in batch.items() if value.device.type == there}
        )
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        found: Tensors = told
        return found

    def _run(self, batch: Tensors) -> tuple[Tensors, list[Tensor | None]]:
        told = self.step(batch, self.source)
        return told, [parameter.grad for parameter in self.parameters]

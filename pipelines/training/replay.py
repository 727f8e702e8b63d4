"""Steps of a training whose kernels a GPU launches at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from networks.errors import summary

WARM_UP = 3
"""Steps of the same shapes that run as they are, in which libraries choose their kernels."""

Tensors = Mapping[str, Tensor]
Shapes = tuple[tuple[str, torch.Size], ...]


class Replay:
    """Runs a step as a CUDA graph, since many small kernels take longer to launch than to run.

    The first steps run as they are, then one is recorded, of shapes that were seen before. A batch
    of other shapes runs as it is. The random numbers are those of the same step unrecorded.

    Args:
        step: of a batch on the GPU and a source of randomness. It sets the gradients, never waits
            for the GPU, and draws and computes alike for all batches of the same shapes.
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
        self.graph: torch.cuda.CUDAGraph | None = None
        self.given: dict[str, Tensor] = {}
        self.found: Tensors = {}
        self.gradients: list[Tensor | None] = []
        self.seen: Counter[Shapes] = Counter()
        self.recorded: Shapes | None = None

    def __call__(self, batch: Tensors, seed: int) -> Tensors:
        """What the step finds in a batch; the next call overwrites it."""
        there = self.source.device.type
        batch = {name: value for name, value in batch.items() if value.device.type == there}
        shapes = tuple((name, value.shape) for name, value in batch.items())
        self.seen[shapes] += 1
        if self.graph is None and self.seen[shapes] > WARM_UP:
            self._record(batch)
            self.recorded = shapes
        self.source.manual_seed(seed)
        if self.graph is None or shapes != self.recorded:
            return self.step(batch, self.source)
        for name, value in batch.items():
            self.given[name].copy_(value)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        self.graph.replay()
        return self.found

    def _record(self, batch: Tensors) -> None:
        self.given = {name: value.clone() for name, value in batch.items()}
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.source)
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.found = self.step(self.given, self.source)
        except RuntimeError as error:
            raise RuntimeError(
                f"this GPU could not record a step of the training ({summary(error)}). Go on from "
                "here with the same command and --compile never, which is slower."
            ) from error
        self.gradients = [parameter.grad for parameter in self.parameters]
        self.graph = graph

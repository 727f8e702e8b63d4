"""Functions whose kernels a GPU launches at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import summary

WARM_UP = 3
"""Calls with the same shapes that run as they are, in which libraries choose their kernels."""

Tensors = Mapping[str, Tensor]
Shapes = tuple[tuple[str, torch.Size], ...]


class Recorded:
    """A function run as CUDA graphs, since many small kernels take longer to launch than to run.

    The first calls with the same shapes run as they are, then one is recorded and replayed from
    there on. The random numbers are those of the function unrecorded.

    Args:
        function: of tensors on the GPU. It never waits for the GPU (see `waits`), computes alike
            for all tensors of the same shapes, and reads whatever else it reads from where it was.
        device: the GPU, which need not be PyTorch's current one.
        source: of its random numbers, if it draws any.

    Attributes:
        graphs: by the shapes of what is given: the graph, what it is given and what it finds.

    Raises:
        RuntimeError: when called, if the GPU cannot record the function.
    """

    def __init__(
        self,
        function: Callable[[Tensors], Any],
        device: torch.device,
        source: torch.Generator | None = None,
    ) -> None:
        self.function = function
        self.device = device
        self.source = source
        self.stream: torch.cuda.Stream | None = None
        self.graphs: dict[Shapes, tuple[torch.cuda.CUDAGraph, Tensors, Any]] = {}
        self.seen: Counter[Shapes] = Counter()

    def __call__(self, given: Tensors) -> Any:
        """What the function finds; the next call overwrites it."""
        shapes = _shapes(given)
        if self.records(given):
            self.graphs[shapes] = self._record(given)
        if shapes not in self.graphs:
            self.seen[shapes] += 1
            return self.function(given)
        graph, places, found = self.graphs[shapes]
        for name, value in given.items():
            places[name].copy_(value)
        graph.replay()
        return found

    def records(self, given: Tensors) -> bool:
        """Whether a call would record the function."""
        shapes = _shapes(given)
        return self.seen[shapes] >= WARM_UP and shapes not in self.graphs

    def _record(self, given: Tensors) -> tuple[torch.cuda.CUDAGraph, Tensors, Any]:
        places = {name: value.clone() for name, value in given.items()}
        graph = torch.cuda.CUDAGraph()
        if self.source is not None:
            graph.register_generator_state(self.source)
        pool = next((known.pool() for known, *_ in self.graphs.values()), None)
        self.stream = self.stream or torch.cuda.Stream(self.device)
        try:
            with torch.cuda.graph(graph, pool, self.stream, "thread_local"):
                found = self.function(places)
        except RuntimeError as error:
            raise RuntimeError(
                f"this GPU could not record what it is to do ({summary(error)}). Go on from here "
                "with the same command and --compile never, which is slower."
            ) from error
        return graph, places, found


def _shapes(given: Tensors) -> Shapes:
    return tuple((name, value.shape) for name, value in given.items())


def waits(function: Callable[[Tensors], Any], given: Tensors) -> bool:
    """Whether a function waits for the GPU, or fails, and so cannot be recorded."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        function(given)
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return False

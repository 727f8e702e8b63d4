"""What a CPU records and replays in place of CUDA graphs."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from networks.recorded import Recorded


class FakeGraph:
    """Stands for a CUDA graph: a replay runs the function again, where it was recorded."""

    def __init__(self, recorded: Recorded, places: dict[str, Tensor], found: Any) -> None:
        self.recorded, self.places, self.found = recorded, places, found
        self.replays = 0

    def pool(self) -> int:
        return 0

    def replay(self) -> None:
        again = tree_leaves(self.recorded.function(self.places))
        for before, now in zip(tree_leaves(self.found), again, strict=True):
            if isinstance(before, Tensor):
                before.copy_(now)
        self.replays += 1


@pytest.fixture
def fake_graphs(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    """What a CPU records in place of CUDA graphs, in turn."""
    graphs: list[FakeGraph] = []
    record = Recorded._record

    def recorded(self: Recorded, given: Any) -> Any:
        state = self.source and self.source.get_state()
        _, places, found = record(self, given)
        if self.source is not None and state is not None:
            self.source.set_state(state)  # what is recorded draws nothing yet
        graphs.append(FakeGraph(self, dict(places), found))
        return graphs[-1], places, found

    def on_its_stream(graph: Any, pool: Any, stream: str, errors: str) -> Any:
        assert stream == "cpu"  # of the device, not of PyTorch's current one
        return nullcontext()

    monkeypatch.setattr(Recorded, "_record", recorded)
    monkeypatch.setattr(
        torch.cuda,
        "CUDAGraph",
        lambda: SimpleNamespace(register_generator_state=lambda source: None),
    )
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: str(device))
    monkeypatch.setattr(torch.cuda, "graph", on_its_stream)
    return graphs

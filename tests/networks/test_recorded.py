"""Functions that a GPU replays."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from networks.recorded import WARM_UP, Recorded, waits

Graphs = list[Any]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("counts", "replays"),
    [((2, 2, 2, 2, 1, 2, 2), 3), ((2, 2, 2, 1, 2, 1, 1, 2, 1), 3)],
)
def test_a_replay_is_of_what_is_given_now(
    fake_graphs: Graphs, counts: tuple[int, ...], replays: int
) -> None:
    factor = torch.tensor(1.0)

    def function(given: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return given["x"] * factor, {"sum": given["x"].sum()}

    recorded = Recorded(function, CPU)
    for number, count in enumerate(counts):
        factor.fill_(number)
        given = {"x": torch.full((count,), float(number))}
        before, records = len(fake_graphs), recorded.records(given)
        found, told = recorded(given)
        assert records == (len(fake_graphs) > before)
        torch.testing.assert_close(found, given["x"] * number)
        assert float(told["sum"]) == count * number
    assert sum(graph.replays for graph in fake_graphs) == replays


def test_the_shapes_of_all_that_is_given_count(fake_graphs: Graphs) -> None:
    recorded = Recorded(lambda given: given["x"].sum() + given["y"].sum(), CPU)
    for count in range(1, 2 * WARM_UP):
        assert recorded({"x": torch.ones(2), "y": torch.ones(count)}) == 2 + count
    assert not fake_graphs


def test_a_gpu_that_cannot_record_is_told(fake_graphs: Graphs) -> None:
    def function(given: Mapping[str, Tensor]) -> None:
        if recording:
            raise RuntimeError("operation not permitted")

    recorded, recording = Recorded(function, CPU), False
    for _ in range(WARM_UP):
        recorded({})
    recording = True
    with pytest.raises(RuntimeError, match=r"operation not permitted\). Go on .* --compile never"):
        recorded({})
    assert not recorded.graphs


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda given: given["x"] * 2, False),
        (lambda given: given["x"] * float(given["x"].sum()), True),
        (lambda given: given["x"][given["x"] > 0], True),
    ],
)
def test_what_waits_for_the_gpu_is_found_out(
    function: Callable[[Mapping[str, Tensor]], Tensor], expected: bool
) -> None:
    before = torch.cuda.get_sync_debug_mode()
    assert waits(function, {"x": torch.rand(4, device="cuda")}) is expected
    assert torch.cuda.get_sync_debug_mode() == before


@pytest.mark.gpu
def test_random_numbers_are_those_of_the_function_unrecorded() -> None:
    source = torch.Generator("cuda")

    def function(given: Mapping[str, Tensor]) -> Tensor:
        return given["x"] + torch.rand(5, device="cuda", generator=source)

    recorded = Recorded(function, torch.device("cuda"), source)
    for seed in range(2 * WARM_UP):
        given = {"x": torch.full((5,), float(seed), device="cuda")}
        source.manual_seed(seed)
        found = recorded(given).clone()
        source.manual_seed(seed)
        assert torch.equal(found, function(given))
    assert recorded.graphs

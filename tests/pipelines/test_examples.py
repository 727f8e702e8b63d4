"""Telling slices."""

from typing import Any

import numpy as np
import pytest
import torch

from pipelines.cases import Case
from pipelines.datasets import CaseSample
from pipelines.evaluation import ScoredCase
from pipelines.examples import Example, ExampleKeeper
from transforms.slices import Slicer


def scored(
    name: str,
    labels: list[int],
    scores: list[float],
    masks: torch.Tensor | None = None,
    shape: tuple[int, int] = (16, 8),
    threshold: float = 3.5,
) -> ScoredCase:
    """Pictures pretending to be slices; every value tells its slice."""
    count = len(labels)
    values = torch.arange(float(count))
    canvas = values.view(-1, 1, 1).expand(count, 16, 16)
    geometry = Slicer(image_size=16).geometry(torch.zeros(1, *shape))
    sample = CaseSample(
        case=Case(name, name, ()),
        images=canvas[:, None].clone(),
        raw=torch.zeros(count, 1, *shape),
        indices=torch.arange(count) + 10,
        labels=torch.tensor(labels, dtype=torch.int8),
        masks=masks,
        geometry=geometry,
    )
    return ScoredCase(
        sample=sample,
        scores={"score": np.array(scores)},
        flagged=np.array(scores) > threshold,
        anomaly_map=np.zeros((count, *shape), np.float32),
        canvas_maps={"anomaly_map": canvas, "map_recon": canvas + 1},
        reconstruction=canvas[:, None] + 0.5,
    )


def told(examples: list[Example], kind: str) -> list[tuple[str, int, float]]:
    return [(one.case, one.index, one.score) for one in examples if one.kind == kind]


def test_the_most_telling_slice_of_each_kind_is_kept() -> None:
    keeper = ExampleKeeper()
    keeper.add(scored("a", [0, 1, 1, 0, -1, 1], [5.0, 3.0, 9.0, 1.0, 99.0, 4.0]))
    found = keeper.examples()
    assert told(found, "detected") == [("a", 12, 9.0)]
    assert told(found, "missed") == [("a", 11, 3.0)]
    assert told(found, "false alarm") == [("a", 10, 5.0)]
    (best,) = [one for one in found if one.kind == "detected"]
    assert (best.image == 2).all() and (best.reconstruction == 2.5).all()
    assert set(best.maps) == {"anomaly_map", "recon"} and (best.maps["recon"] == 3).all()
    assert best.mask is None


def test_only_a_few_are_kept_the_most_telling_first() -> None:
    keeper = ExampleKeeper(per_kind=2)
    for name, score in (("a", 3.0), ("b", 1.0), ("c", 5.0), ("d", 2.0), ("e", 5.0), ("f", 5.0)):
        keeper.add(scored(name, [1, 0], [score, 10 - score], threshold=2.5))
    found = keeper.examples()
    assert told(found, "detected") == [("e", 10, 5.0), ("c", 10, 5.0)]
    assert told(found, "missed") == [("b", 10, 1.0), ("d", 10, 2.0)]
    assert told(found, "false alarm") == [("b", 11, 9.0), ("d", 11, 8.0)]


def test_a_kind_may_be_absent() -> None:
    keeper = ExampleKeeper()
    assert keeper.examples() == []
    keeper.add(scored("a", [0, -1], [4.0, 5.0]))
    assert [one.kind for one in keeper.examples()] == ["false alarm"]


def test_the_threshold_decides_what_is_missed() -> None:
    keeper = ExampleKeeper()
    keeper.add(scored("a", [1, 0], [4.0, 3.0]))
    assert [one.kind for one in keeper.examples()] == ["detected"]
    keeper.add(scored("b", [1, 0], [3.0, 1.0]))
    assert [one.kind for one in keeper.examples()] == ["detected", "missed"]


def test_an_example_holds_copies() -> None:
    keeper, case = ExampleKeeper(), scored("a", [1], [1.0])
    keeper.add(case)
    case.sample.images.fill_(7)
    case.reconstruction.fill_(7)
    (first,) = keeper.examples()
    assert (first.image == 0).all() and (first.reconstruction == 0.5).all()
    for value in (first.image, first.reconstruction, *first.maps.values()):
        assert value.base is None or value.base.nbytes == value.nbytes  # not the whole case's


@pytest.mark.parametrize("shape", [(16, 8), (32, 16)])
def test_a_mask_is_drawn_on_the_canvas(shape: tuple[int, int]) -> None:
    mask: Any = torch.zeros(1, *shape, dtype=torch.bool)
    mask[0, : shape[0] // 2, :] = True
    keeper = ExampleKeeper()
    keeper.add(scored("a", [1], [1.0], mask, shape))
    drawn = keeper.examples()[0].mask
    assert drawn is not None and drawn.shape == (16, 16)
    expected = np.zeros((16, 16), bool)
    expected[:8, 4:12] = True  # the slice is half as wide as the canvas
    assert (drawn == expected).all()

"""Telling slices."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.data.cases import Case
from pipelines.data.slices import CaseSample
from pipelines.outputs.examples import Example, ExampleKeeper, candidates
from pipelines.scoring.cases import ScoredCase
from transforms.slices import Slicer

FakeScored = Callable[..., ScoredCase]
MakeScored = Callable[..., ScoredCase]


@pytest.fixture
def scored(fake_scored: FakeScored) -> MakeScored:
    """Pictures pretending to be slices; every value tells its slice."""

    def make(
        name: str,
        labels: list[int],
        scores: list[float],
        masks: torch.Tensor | None = None,
        shape: tuple[int, int] = (16, 8),
        threshold: float = 3.5,
        label: int | None = 1,
    ) -> ScoredCase:
        count = len(labels)
        canvas = torch.arange(float(count)).view(-1, 1, 1).expand(count, 16, 16)
        sample = CaseSample(
            case=Case(name, name, (), label=label),
            images=canvas[:, None].clone(),
            indices=torch.arange(count) + 10,
            labels=torch.tensor(labels, dtype=torch.int8),
            masks=masks,
            geometry=Slicer(image_size=16).geometry(torch.zeros(1, *shape)),
            body=torch.ones(count, *shape, dtype=torch.bool),
        )
        return fake_scored(sample, scores, threshold=threshold)

    return make


def told(examples: list[Example], kind: str) -> list[tuple[str, int, float]]:
    return [(one.case, one.index, one.score) for one in examples if one.kind == kind]


def test_the_most_telling_slice_of_each_kind_is_a_candidate(scored: MakeScored) -> None:
    found = candidates(scored("a", [0, 1, 1, 0, -1, 1], [5.0, 3.0, 9.0, 1.0, 99.0, 4.0]))
    assert told(found, "detected") == [("a", 12, 9.0)]
    assert told(found, "missed") == [("a", 11, 3.0)]
    assert told(found, "false alarm") == [("a", 10, 5.0)]
    assert len(found) == 3
    (best,) = [one for one in found if one.kind == "detected"]
    assert (best.image == 2).all() and (best.reconstruction == 2.5).all()
    assert set(best.maps) == {"anomaly_map", "recon"} and (best.maps["recon"] == 3).all()
    assert best.mask is None


@pytest.mark.parametrize(
    ("labels", "label", "kinds"),
    [
        ([-1, -1], None, ["scored"]),
        ([-1, -1], 1, []),  # anomalous somewhere: no slice can be shown for it
        ([0, -1], None, ["false alarm"]),  # left out by its mask, not unknown
    ],
)
def test_only_a_case_of_unknown_label_is_merely_scored(
    scored: MakeScored, labels: list[int], label: int | None, kinds: list[str]
) -> None:
    found = candidates(scored("a", labels, [4.0, 5.0], label=label))
    assert [one.kind for one in found] == kinds
    if kinds == ["scored"]:
        assert told(found, "scored") == [("a", 11, 5.0)]


def test_the_threshold_decides_what_is_missed(scored: MakeScored) -> None:
    assert [one.kind for one in candidates(scored("a", [1, 0], [4.0, 3.0]))] == ["detected"]
    assert [one.kind for one in candidates(scored("b", [1, 0], [3.0, 1.0]))] == ["missed"]


def test_an_example_holds_copies(scored: MakeScored) -> None:
    case = scored("a", [1], [1.0])
    (first,) = candidates(case)
    case.sample.images.fill_(7)
    case.reconstruction.fill_(7)
    assert (first.image == 0).all() and (first.reconstruction == 0.5).all()
    for value in (first.image, first.reconstruction, *first.maps.values()):
        assert value.base is None or value.base.nbytes == value.nbytes  # not the whole case's


@pytest.mark.parametrize("shape", [(16, 8), (32, 16)])
def test_a_mask_is_drawn_on_the_canvas(scored: MakeScored, shape: tuple[int, int]) -> None:
    mask: Any = torch.zeros(1, *shape, dtype=torch.bool)
    mask[0, : shape[0] // 2, :] = True
    (found,) = candidates(scored("a", [1], [1.0], mask, shape))
    drawn = found.mask
    assert drawn is not None and drawn.shape == (16, 16)
    expected = np.zeros((16, 16), bool)
    expected[:8, 4:12] = True  # the slice is half as wide as the canvas
    assert (drawn == expected).all()


def example(case: str, score: float, kind: Any = "detected") -> Example:
    picture = np.zeros((2, 2), np.float32)
    return Example(kind, case, 0, score, picture, picture, {"anomaly_map": picture}, None)


def offered(keeper: ExampleKeeper, examples: list[Example]) -> list[bool]:
    return [keeper.offer(one) for one in examples]


def test_only_a_few_are_kept_the_most_telling_first() -> None:
    keeper = ExampleKeeper(per_kind=2)
    assert keeper.examples() == []
    scores = [("a", 3.0), ("b", 1.0), ("c", 5.0), ("d", 2.0), ("e", 5.0), ("f", 5.0)]
    for kind in ("detected", "missed", "false alarm", "scored"):
        taken = offered(keeper, [example(name, score, kind) for name, score in scores])
        if kind != "missed":
            assert taken == [True, True, True, False, True, False]
    found = keeper.examples()
    for kind in ("detected", "false alarm", "scored"):
        assert told(found, kind) == [("e", 0, 5.0), ("c", 0, 5.0)]
    assert told(found, "missed") == [("b", 0, 1.0), ("d", 0, 2.0)]
    order = [one.kind for one in found]
    assert order == [k for k, _ in itertools.groupby(order) for _ in range(2)]
    assert list(dict.fromkeys(order)) == ["detected", "missed", "false alarm", "scored"]


def test_offering_what_was_taken_again_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    everything = [example(f"c{n:02d}", float(rng.integers(0, 9))) for n in range(40)]
    whole = ExampleKeeper()
    taken = [one for one in everything if whole.offer(one)]
    for start in (0, 7, 25):  # a run that stopped there and was started again
        parts = [everything[:start], everything[start:]]
        kept = [one for part in parts for keeper in [ExampleKeeper()] for one in part
                if keeper.offer(one)]  # fmt: skip
        again = ExampleKeeper()
        offered(again, kept)
        assert again.examples() == whole.examples()
    assert len(taken) < 20

"""Damaged and foreign model files, and what scoring with one comes to."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.data.cases import Case
from pipelines.scoring.model_file import MODEL_NAME
from pipelines.scoring.predictor import Predictor
from tests.fuzz.mutations import MUTATIONS
from tests.fuzz.place import place
from transforms.errors import InputError

Content = dict[str, Any]
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**12, 1e300, float("nan"), float("inf"), "", "x" * 1000, "flow", [], {}),
    *([1, 2], {"a": 1}, torch.zeros(3), torch.tensor(float("nan"))),
)


@cache
def sound() -> bytes:
    return (place() / "models" / MODEL_NAME).read_bytes()


def _places(content: Content) -> list[tuple[Content, str]]:
    """All values of a nested content but the tensors, as what holds each and its name."""
    found = [(content, key) for key in content]
    for key, value in content.items():
        if isinstance(value, dict) and key != "model":
            found += _places(value)
    return found


def a_value_missing(content: Content, source: np.random.Generator) -> None:
    places = _places(content)
    holder, key = places[source.integers(len(places))]
    del holder[key]


def another_value(content: Content, source: np.random.Generator) -> None:
    places = _places(content)
    holder, key = places[source.integers(len(places))]
    holder[key] = copy.deepcopy(ODD[source.integers(len(ODD))])


def a_value_more(content: Content, source: np.random.Generator) -> None:
    holders = [holder for holder, _ in _places(content)]
    holders[source.integers(len(holders))]["further"] = ODD[source.integers(len(ODD))]


def another_tensor(content: Content, source: np.random.Generator) -> None:
    tensors = content["model"]
    name = sorted(tensors)[source.integers(len(tensors))]
    old = tensors[name]
    others = (
        *(old * float("nan"), old * float("inf"), old.double(), old.long(), old[None], -old),
        *(torch.zeros_like(old), old.float() * 1e30, torch.ones(3), torch.empty(0), None, 1.0),
    )
    other = others[source.integers(len(others))]
    if other is None:
        del tensors[name]
    else:
        tensors[name] = other


CHANGES: dict[str, Callable[[Content, np.random.Generator], None]] = {
    change.__name__: change
    for change in (a_value_missing, another_value, a_value_more, another_tensor)
}


def kinds() -> list[tuple[str, str]]:
    """Every change of bytes and of values."""
    return [(MODEL_NAME, name) for name in (*MUTATIONS, *CHANGES)]


def check(name: str, mutation: str, number: int, folder: Path) -> str:
    """Scores a picture with a model gone wrong: what that comes to."""
    source = np.random.default_rng([number, *mutation.encode()])
    path = folder / name
    if mutation in MUTATIONS:
        path.write_bytes(MUTATIONS[mutation](sound(), source))
    else:
        content = torch.load(place() / "models" / MODEL_NAME, weights_only=True)
        CHANGES[mutation](content, source)
        torch.save(content, path)
    try:
        score = _score(path)
    except InputError as error:
        return "refused" if "\n" not in str(error) else "refused in several paragraphs"
    except Exception as error:  # what is looked for
        return f"{type(error).__name__}: {error}"
    if not np.isfinite(score):
        return "scores that are not finite"
    if mutation in MUTATIONS and score != _right():
        return "accepted although its weights are damaged"
    return "accepted"


def _score(model: Path) -> float:
    picture = next((place() / "pictures" / "test").rglob("*.png"))
    return float(Predictor(model)(Case("a", "a", (picture,))).case_score.score)


@cache
def _right() -> float:
    return _score(place() / "models")

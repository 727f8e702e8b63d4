"""AUROC over matched pairs."""

from typing import Any

import numpy as np
import pytest

from pipelines.metrics.image import image_metrics, mean_figure
from pipelines.metrics.matching import LEVEL_TOLERANCE, SHARPNESS_TOLERANCE, Relation, matched_auroc
from transforms.errors import InputError


def sample(count: int = 80) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    return {
        "labels": labels,
        "scores": np.round(rng.normal(size=count) + 0.5 * labels, 1),
        "key": rng.integers(1, 20, count).astype(float),
        "patients": np.arange(count) // 4,
    }


def by_hand(data: dict[str, np.ndarray], weight: np.ndarray, tolerance: float) -> float:
    won = total = 0.0
    for i in np.flatnonzero(data["labels"] == 1):
        for j in np.flatnonzero(data["labels"] == 0):
            if abs(data["key"][i] - data["key"][j]) <= tolerance:
                pair = weight[i] * weight[j]
                total += pair
                won += pair * (np.sign(data["scores"][i] - data["scores"][j]) + 1) / 2
    return won / total


def test_value_and_interval_equal_the_sum_over_pairs() -> None:
    data = sample()
    found = matched_auroc(**data, tolerance=2, resamples=30)
    draws = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), size=30)
    expected = [by_hand(data, row[data["patients"]], 2) for row in draws]
    assert found.figure.value == pytest.approx(by_hand(data, np.ones(80), 2))
    assert found.figure.ci95 == pytest.approx(tuple(np.percentile(expected, [2.5, 97.5])))


def test_all_pairs_give_the_plain_auroc() -> None:
    data = sample()
    found = matched_auroc(**data, tolerance=np.inf)
    plain = image_metrics(data["labels"], data["scores"], data["scores"] > 0, data["patients"])
    assert found.figure.value == pytest.approx(plain["image_auroc"].value)
    assert found.figure.ci95 == pytest.approx(plain["image_auroc"].ci95)
    assert found.pairs == data["labels"].sum() * (1 - data["labels"]).sum()


def test_a_score_that_is_the_key_is_worth_nothing_once_matched() -> None:
    key = np.tile(np.arange(10.0), 2)
    labels = np.repeat([0, 1], 10)
    found = matched_auroc(labels, key, key=key, tolerance=0, patients=np.arange(20))
    assert (found.figure.value, found.pairs) == (0.5, 10)


@pytest.mark.parametrize(
    ("keys", "tolerance", "relation"),
    [
        (np.array([10, 20, 12, 23]), LEVEL_TOLERANCE, "abs"),
        (np.exp([0.0, 1.0, 0.049, 1.051]), SHARPNESS_TOLERANCE, "log_ratio"),
    ],
)
def test_tolerances_are_inclusive_and_those_of_the_protocol(
    keys: np.ndarray, tolerance: float, relation: Relation
) -> None:
    found = matched_auroc(
        [0, 0, 1, 1],
        [0, 1, 2, 3],
        key=keys,
        tolerance=tolerance,
        relation=relation,
        patients=np.arange(4),
    )
    assert found.pairs == 1
    assert found.as_dict()["value"] == 1.0


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = matched_auroc(**sample(), tolerance=2)
    monkeypatch.setattr("pipelines.metrics.matching.BLOCK_PAIRS", 100)
    parts = matched_auroc(**sample(), tolerance=2)
    assert parts.figure.value == pytest.approx(whole.figure.value)
    assert parts.figure.ci95 == pytest.approx(whole.figure.ci95)
    assert parts.pairs == whole.pairs


def test_difference_of_two_scores() -> None:
    data = sample()
    found = matched_auroc(**data, minus=data["key"], tolerance=2)
    values = [
        matched_auroc(**{**data, "scores": data[name]}, tolerance=2).figure.value
        for name in ("scores", "key")
    ]
    assert found.figure.value == pytest.approx(values[0] - values[1])
    everything = matched_auroc(**data, minus=data["key"], tolerance=np.inf)
    plain = mean_figure(data["labels"], [data["scores"]], data["patients"], minus=[data["key"]])
    assert everything.figure.ci95 == pytest.approx(plain.ci95)


def test_only_patients_with_a_pair_make_a_figure() -> None:
    labels, key = np.tile([0, 1], 10), np.repeat([0, 0, 0, 0, 9, 18, 27, 36, 45, 54], 2)
    key[9::2] += 4  # six anomalous images without a normal one that is alike
    found = matched_auroc(labels, key, key=key, tolerance=0, patients=np.arange(20))
    assert found.as_dict()["note"] == "4 patients: no figure" and found.figure.ci95 is None
    key[9] = 0  # a fifth anomalous one, like four normal ones
    for swapped in (labels, 1 - labels):
        found = matched_auroc(swapped, key, key=key, tolerance=0, patients=np.arange(20))
        assert found.as_dict()["note"] == "4 patients: no figure"
    key[8] = 0
    assert not matched_auroc(labels, key, key=key, tolerance=0, patients=np.arange(20)).figure.note


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [0, 0, 0, 0]])
def test_no_pair_is_none(labels: list[int]) -> None:
    found = matched_auroc(
        labels, [0, 1, 0, 1], key=[0, 9, 0, 9], tolerance=2, patients=list("abcd")
    )
    assert found.as_dict() == {"value": None, "ci95": None, "pairs": 0}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"key": [0.0, 1.0], "relation": "log_ratio"}, "'key' must be positive"),
        ({"key": [np.nan, 1.0]}, "'key' must hold"),
        ({"relation": "ratio"}, "'relation'"),
        ({"minus": [0, np.inf]}, "'scores' must be finite, got 1"),
    ],
)
def test_mistakes_are_told(changes: dict[str, Any], told: str) -> None:
    arguments: dict[str, Any] = {"key": [1, 1], "tolerance": 1, "patients": [0, 1]}
    with pytest.raises(InputError, match=told):
        matched_auroc([0, 1], [0, 1], **{**arguments, **changes})

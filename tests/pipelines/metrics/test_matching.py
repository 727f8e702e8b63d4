"""AUROC over matched pairs."""

import numpy as np
import pytest

from pipelines.metrics.image import image_metrics, paired_difference
from pipelines.metrics.matching import (
    level_matched,
    matched_auroc,
    matched_difference,
    sharpness_matched,
)
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
    found = matched_auroc(labels, key, key, 0, patients=np.arange(20))
    assert (found.figure.value, found.pairs) == (0.5, 10)


def test_tolerances_are_inclusive_and_those_of_the_protocol() -> None:
    patients = np.arange(4)
    levels = level_matched([0, 0, 1, 1], [0, 1, 2, 3], [10, 20, 12, 23], patients=patients)
    assert levels.pairs == 1
    ratios = np.exp([0.0, 1.0, 0.049, 1.051])
    sharp = sharpness_matched([0, 0, 1, 1], [0, 1, 2, 3], ratios, patients=patients)
    assert sharp.pairs == 1
    assert sharp.as_dict()["value"] == 1.0


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = matched_auroc(**sample(), tolerance=2)
    monkeypatch.setattr("pipelines.metrics.matching.BLOCK_PAIRS", 100)
    parts = matched_auroc(**sample(), tolerance=2)
    assert parts.figure.value == pytest.approx(whole.figure.value)
    assert parts.figure.ci95 == pytest.approx(whole.figure.ci95)
    assert parts.pairs == whole.pairs


def test_difference_of_two_scores() -> None:
    data = sample()
    columns = {**data, "scores_a": data["scores"], "scores_b": data["key"]}
    del columns["scores"]
    found = matched_difference(**columns, tolerance=2)
    values = [
        matched_auroc(**{**data, "scores": data[name]}, tolerance=2).figure.value
        for name in ("scores", "key")
    ]
    assert found.figure.value == pytest.approx(values[0] - values[1])
    everything = matched_difference(**columns, tolerance=np.inf)
    plain = paired_difference(data["labels"], data["scores"], data["key"], data["patients"])
    assert everything.figure.ci95 == pytest.approx(plain.ci95)


def test_no_pair_is_none() -> None:
    found = level_matched([0, 1, 0, 1], [0, 1, 0, 1], [0, 9, 0, 9], patients=list("abcd"))
    assert found.as_dict() == {"value": None, "ci95": None, "pairs": 0}
    normals = level_matched([0, 0], [0, 1], [0, 0], patients=["a", "b"])
    assert normals.as_dict() == {"value": None, "ci95": None, "pairs": 0}


def test_mistakes_are_told() -> None:
    with pytest.raises(InputError, match="'key' must be positive"):
        matched_auroc([0, 1], [0, 1], [0.0, 1.0], 1, "log_ratio", patients=[0, 1])
    with pytest.raises(InputError, match="'key' must hold"):
        matched_auroc([0, 1], [0, 1], [np.nan, 1.0], 1, patients=[0, 1])
    with pytest.raises(InputError, match="'relation'"):
        matched_auroc([0, 1], [0, 1], [1, 1], 1, "ratio", patients=[0, 1])  # type: ignore

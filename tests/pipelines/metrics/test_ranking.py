"""Ranking metrics on counts equal scikit-learn on weighted items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from pipelines.metrics.ranking import (
    RankedScores,
    auroc,
    average_precision,
    best_dice,
    partial_overlap_area,
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    levels=st.sampled_from([2, 5, 1000]),
    more=st.sampled_from([0, 1, 3, 40]),
)
def test_equal_to_sklearn_on_weighted_items_with_ties(seed: int, levels: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, more)]
    scores = rng.integers(0, levels, labels.size) / levels + 0.1 * labels
    weights = np.maximum(rng.poisson(1.0, (3, labels.size)), [0.0])
    weights[:, :2] = 1
    ranked = RankedScores.of(labels, scores)
    once, weighted = ranked.counts(), ranked.counts(weights)
    positive, negative = (np.concatenate(pair) for pair in zip(once, weighted, strict=True))
    for row, weight in enumerate([np.ones(labels.size), *weights]):
        precision, recall, _ = precision_recall_curve(labels, scores, sample_weight=weight)
        total = np.maximum(precision + recall, 1e-12)
        expected = {
            auroc: roc_auc_score(labels, scores, sample_weight=weight),
            average_precision: average_precision_score(labels, scores, sample_weight=weight),
            best_dice: np.max(2 * precision * recall / total),
        }
        for metric, value in expected.items():
            assert metric(positive, negative)[row] == pytest.approx(value, abs=1e-12), metric


def test_undefined_without_a_class() -> None:
    some, none = np.ones((1, 3)), np.zeros((1, 3))
    assert np.isnan(auroc(some, none)).all()
    assert np.isnan(auroc(none, some)).all()
    assert np.isnan(average_precision(none, some)).all()
    assert np.isnan(best_dice(none, some)).all()
    assert np.isnan(average_precision(some, none)).all()
    assert np.isnan(best_dice(some, none)).all()
    assert np.isnan(partial_overlap_area(none, some, 0.3)).all()
    assert np.isnan(partial_overlap_area(some, none, 0.3)).all()


def test_partial_area_of_one_region_is_the_partial_roc_area() -> None:
    rng = np.random.default_rng(0)
    regions, negative = rng.random((2, 1, 50))
    rate = np.r_[0, np.cumsum(negative[0, ::-1]) / negative.sum()]
    overlap = np.r_[0, np.cumsum(regions[0, ::-1]) / regions.sum()]
    for limit in (0.05, 0.3, 1.0):
        x = np.r_[rate[rate < limit], limit]
        expected = auc(x, np.interp(x, rate, overlap)) / limit
        assert partial_overlap_area(regions, negative, limit)[0] == pytest.approx(expected)


def test_partial_area_handles_bins_without_normal_pixels() -> None:
    regions, negative = np.array([[0.0, 0.0, 1.0]]), np.array([[9.0, 1.0, 0.0]])
    assert partial_overlap_area(regions, negative, 0.3)[0] == pytest.approx(1.0)

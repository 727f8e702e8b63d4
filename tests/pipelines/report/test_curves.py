"""Curves against scikit-learn and by hand."""

import numpy as np
import pytest
from scipy.integrate import trapezoid
from sklearn.metrics import precision_recall_curve, roc_curve

from pipelines.report.curves import RATES, Judged, false_positives, precision_recall, roc


@pytest.fixture
def judged() -> Judged:
    rng = np.random.default_rng(0)
    labels = (np.arange(120) % 3 == 0).astype(np.int64)
    scores = np.round(rng.normal(1.2 * labels), 1)
    patients = np.array([f"p{n // 3}" for n in range(120)])
    return Judged(labels, scores, patients, {})


def test_roc_runs_through_scikit_learns_points(judged: Judged) -> None:
    wrong, found, _ = roc_curve(judged.labels, judged.scores, drop_intermediate=False)
    curve = roc(judged, judged.scores, 50)
    highest = [found[wrong <= rate + 1e-12].max() for rate in RATES]
    assert (curve.y >= np.array(highest) - 1e-12).all()
    assert np.interp(wrong[wrong > 0], curve.x, curve.y) == pytest.approx(found[wrong > 0], abs=0.1)
    assert trapezoid(curve.y, curve.x) == pytest.approx(curve.area, abs=0.01)
    assert (curve.low <= curve.y + 0.05).all() and (curve.y <= curve.high + 0.05).all()


def test_precision_is_that_of_the_first_threshold_reaching_a_recall(judged: Judged) -> None:
    precision, recall, _ = precision_recall_curve(judged.labels, judged.scores)
    curve = precision_recall(judged, judged.scores, 50)
    for rate, own in zip(RATES[1:], curve.y[1:], strict=True):
        reaching = np.flatnonzero(recall >= rate - 1e-12)
        assert own == pytest.approx(precision[reaching[-1]])


def test_perfect_scores_have_perfect_curves() -> None:
    labels = np.array([0, 0, 1, 1])
    judged = Judged(labels, labels.astype(float), np.array(list("abcd")), {})
    assert (roc(judged, judged.scores, 20).y == 1).all()
    assert (precision_recall(judged, judged.scores, 20).y == 1).all()


@pytest.mark.parametrize(("patients", "few"), [(1, True), (4, True), (5, False)])
def test_no_band_from_few_patients(judged: Judged, patients: int, few: bool) -> None:
    names = np.array([f"p{n % patients}" for n in range(120)])
    fewer = Judged(judged.labels, judged.scores, names, {})
    curves = roc(fewer, fewer.scores, 20), false_positives(fewer, np.linspace(-2, 2, 99), 20)
    assert [curve.low is None for curve in curves] == [few, few] and bool(fewer.note) is few


def test_normals_like_those_that_calibrated_keep_the_promise() -> None:
    rng = np.random.default_rng(1)
    normal = rng.normal(size=4000)
    quantiles = np.quantile(rng.normal(size=4000), np.linspace(0, 1, 1001))
    names = np.arange(4000).astype(str)
    judged = Judged(np.zeros(4000, dtype=np.int64), normal, names, {})
    curve = false_positives(judged, quantiles, 20)
    assert curve.y == pytest.approx(RATES, abs=0.04)
    shifted = Judged(judged.labels, normal + 1, judged.patients, {})
    assert false_positives(shifted, quantiles, 20).y[10] > 0.15

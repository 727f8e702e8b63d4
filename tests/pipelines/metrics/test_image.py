"""Image-level metrics."""

import json
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    recall_score,
    roc_auc_score,
)

from pipelines.metrics.figure import Figure
from pipelines.metrics.image import image_metrics, mean_figure
from transforms.errors import InputError

Metric = Callable[..., float]

LABELS = np.array([0, 0, 0, 1, 1, 1])
SCORES = np.array([0.1, 0.4, 0.6, 0.5, 0.8, 0.9])
PATIENTS = np.array(list("abcdef"))


def sample(seed: int = 0, count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(count // 2), 2)
    labels = rng.integers(0, 2, count)
    return labels, np.round(rng.normal(size=count) + labels, 1), patients


def test_values_of_a_case_done_by_hand() -> None:
    found = image_metrics(LABELS, SCORES, SCORES > 0.55, PATIENTS)
    expected = {
        "image_auroc": 8 / 9,
        "image_ap": (1 + 1 + 3 / 4) / 3,
        "f1_oracle": 6 / 7,
        "f1": 2 / 3,
        "accuracy": 4 / 6,
        "sensitivity": 2 / 3,
        "specificity": 2 / 3,
        "realised_fpr": 1 / 3,
    }
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(expected)


def test_interval_is_the_one_of_sklearn_resample_by_resample() -> None:
    labels, scores, patients = sample()
    figure = image_metrics(labels, scores, scores > 1, patients, resamples=200)["image_auroc"]
    rng = np.random.default_rng(0)
    weights = rng.multinomial(150, np.full(150, 1 / 150), size=200)[:, patients]
    draws = [roc_auc_score(labels, scores, sample_weight=weight) for weight in weights]
    assert figure.ci95 == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))


OF_DECISIONS: dict[str, Metric] = {
    "f1": partial(f1_score, zero_division=0.0),
    "accuracy": accuracy_score,
    "sensitivity": recall_score,
    "specificity": partial(recall_score, pos_label=0),
}
OF_SCORES: dict[str, Metric] = {
    "image_auroc": roc_auc_score,
    "image_ap": average_precision_score,
    "f1_oracle": lambda truth, scores: max(f1_score(truth, scores >= cut) for cut in scores),
}


@pytest.mark.parametrize("count", [2, 4, 300])
def test_values_are_those_of_sklearn(count: int) -> None:
    labels, scores, patients = sample(count=count)
    labels[:2] = 0, 1
    for flagged in (scores > 1, scores > scores.max()):
        found = image_metrics(labels, scores, flagged, patients, resamples=2)
        del found["realised_fpr"]
        expected = {name: metric(labels, flagged) for name, metric in OF_DECISIONS.items()}
        expected |= {name: metric(labels, scores) for name, metric in OF_SCORES.items()}
        assert {name: one.value for name, one in found.items()} == pytest.approx(
            expected, abs=1e-12
        )


@pytest.mark.parametrize(("name", "metric"), OF_DECISIONS.items())
def test_interval_of_decisions_follows_sklearn_too(name: str, metric: Metric) -> None:
    labels, scores, patients = sample()
    figure = image_metrics(labels, scores, scores > 1, patients, resamples=50)[name]
    weights = np.random.default_rng(0).multinomial(150, np.full(150, 1 / 150), size=50)
    draws = [metric(labels, scores > 1, sample_weight=row[patients]) for row in weights]
    assert figure.ci95 == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))


def test_repeatable_and_independent_of_the_order_of_the_images() -> None:
    labels, scores, patients = sample()
    order = np.random.default_rng(5).permutation(labels.size)
    first = image_metrics(labels, scores, scores > 1, patients)
    other = image_metrics(labels[order], scores[order], scores[order] > 1, patients[order])
    assert first == image_metrics(labels, scores, scores > 1, patients)
    for name, figure in first.items():
        assert figure.ci95 == pytest.approx(other[name].ci95)


def test_many_images_of_few_patients_widen_the_interval() -> None:
    labels, scores, _ = sample()
    each = image_metrics(labels, scores, scores > 1, np.arange(300))["image_auroc"].ci95
    copies = np.tile(np.arange(300), 4)
    four = image_metrics(labels[copies], scores[copies], scores[copies] > 1, copies)
    assert four["image_auroc"].ci95 == pytest.approx(each)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_none_and_no_warning(label: int) -> None:
    found = image_metrics(np.full(6, label), SCORES, SCORES > 0.55, PATIENTS)
    missing = {name for name, figure in found.items() if figure.value is None}
    assert missing == (
        {"image_auroc", "image_ap", "f1_oracle", "f1", "accuracy"}
        | ({"sensitivity"} if label == 0 else {"specificity", "realised_fpr"})
    )
    json.dumps({name: figure.as_dict() for name, figure in found.items()}, allow_nan=False)
    assert mean_figure(np.full(6, label), [SCORES], PATIENTS, minus=[-SCORES]) == Figure(None)


def test_a_figure_needs_five_patients_of_each_class_that_it_is_of() -> None:
    labels = np.repeat([0, 1], [8, 4])
    found = image_metrics(labels, np.arange(12.0), labels, np.arange(12))
    of_normals = {"specificity", "realised_fpr"}
    assert {name for name, figure in found.items() if figure.ci95 is not None} == of_normals
    for name in found.keys() - of_normals:
        assert found[name].as_dict() == {
            "value": 1.0,
            "ci95": None,
            "note": "4 patients: no figure",
        }
    assert mean_figure(labels, [labels], np.arange(12), minus=[-labels]).note
    five = image_metrics([*labels, 1], np.arange(13.0), [*labels, 1], np.arange(13))
    assert all(figure.ci95 is not None and not figure.note for figure in five.values())


def test_each_patient_counts_once_in_the_realised_rate() -> None:
    flagged = np.array([True, True, False, False, True, True])
    patients = np.array(["a", "a", "a", "b", "b", "c"])
    found = image_metrics([0, 0, 0, 0, 1, 1], SCORES, flagged, patients)
    assert found["realised_fpr"].value == pytest.approx((2 / 3 + 0) / 2)
    assert found["specificity"].value == pytest.approx(2 / 4)


def test_nothing_flagged_is_an_f1_of_zero() -> None:
    found = image_metrics(LABELS, SCORES, np.zeros(6, bool), PATIENTS)
    assert (found["f1"].value, found["sensitivity"].value, found["specificity"].value) == (0, 0, 1)


def test_paired_difference_is_narrower_than_unpaired_and_zero_with_itself() -> None:
    labels, scores, patients = sample()
    near = scores + 0.01 * np.random.default_rng(1).normal(size=scores.size)
    same = mean_figure(labels, [scores], patients, minus=[scores])
    assert same == Figure(0.0, (0.0, 0.0))
    difference = mean_figure(labels, [scores], patients, minus=[near])
    single = image_metrics(labels, scores, scores > 1, patients)["image_auroc"]
    assert difference.value == pytest.approx(
        roc_auc_score(labels, scores) - roc_auc_score(labels, near)
    )
    assert difference.ci95 is not None and single.ci95 is not None
    assert np.ptp(difference.ci95) < 0.2 * np.ptp(single.ci95)


@pytest.mark.parametrize("metric", ["image_auroc", "image_ap", "f1_oracle"])
def test_paired_difference_sign(metric: str) -> None:
    labels, scores, patients = sample()
    figure = mean_figure(labels, [scores], patients, metric, minus=[-scores])
    assert figure.value is not None and figure.value > 0
    assert figure.ci95 is not None and figure.ci95[0] < figure.value < figure.ci95[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0, 1]}, "equal length"),
        ({"labels": [0, 0, 0, 1, 1, 2]}, "'labels' must hold 0"),
        ({"scores": [0.1, 0.4, np.nan, 0.5, 0.8, np.inf]}, "'scores' must be finite, got 2"),
        ({"flagged": [True]}, "'flagged'"),
        ({"labels": [], "scores": [], "flagged": [], "patients": []}, "at least one image"),
    ],
)
def test_mistakes_are_told(changes: dict[str, list[float]], message: str) -> None:
    arguments = {"labels": LABELS, "scores": SCORES, "flagged": SCORES > 0, "patients": PATIENTS}
    with pytest.raises(InputError, match=message):
        image_metrics(**{**arguments, **changes})


def test_unknown_metric_is_told_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="image_auroc, image_ap, f1_oracle, got 'auc'"):
        mean_figure(LABELS, [SCORES], PATIENTS, "auc", minus=[SCORES])

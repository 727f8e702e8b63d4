"""What an evaluation's figures amount to, in a line."""

from typing import Any

import pytest

from pipelines.metrics.figure import LEAST_PATIENTS
from pipelines.metrics.verdict import missing_for_evaluation, verdict


def figures(
    auroc: float = 0.9,
    difference: tuple[float, float] = (0.05, 0.2),
    patients: int = 20,
    anomalous: int = 10,
    realised: tuple[float, float] = (0.02, 0.08),
    trivial: str = "sharpness",
) -> dict[str, Any]:
    def figure(value: float | None, ci95: Any = None) -> dict[str, Any]:
        return {"value": value, "ci95": ci95}

    weak = {"image_auroc": figure(0.3), "difference": figure(0.6, [0.5, 0.7])}
    strong = {"image_auroc": figure(0.8), "difference": figure(0.1, list(difference))}
    return {
        "n_normal": figure(10), "n_anomalous": figure(anomalous), "n_patients": figure(patients),
        "n_normal_patients": figure(9), "n_anomalous_patients": figure(min(patients, anomalous)),
        "image_auroc": figure(auroc if anomalous else None, [auroc - 0.1, auroc + 0.05]),
        "matched_auroc": figure(0.85), "realised_fpr": figure(0.05, list(realised)),
        "target_fpr": figure(0.05), "baselines": {"mean": weak, trivial: strong},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "kind", "words"),
    [
        (figures(), "usable", "better than any trivial score (sharpness alone reaches 0.800)"),
        (figures(realised=(0.1, 0.2)), "usable", "5.0% were promised: calibrate"),
        (figures(difference=(-0.02, 0.2)), "not surely better", "sharpness alone reaches 0.800"),
        (figures(difference=(-0.2, -0.01)), "weaker", "Weaker than a trivial score"),
        (figures(trivial="moving_median"), "usable", "(moving median alone reaches 0.800)"),
        (figures(auroc=0.267), "below chance", "AUROC 0.267 [0.167, 0.317], matched 0.850"),
        (figures(anomalous=0), "not to be judged", "there is no anomalous test image"),
        (
            figures(patients=LEAST_PATIENTS - 1),
            "not to be judged",
            "images of 4 patients are too few",
        ),
    ],
)
def test_figures_are_judged(found: dict[str, Any], kind: str, words: str) -> None:
    judged = verdict(found)
    assert judged.kind == kind and words in str(judged)


def test_windows_are_called_so() -> None:
    assert verdict(figures(auroc=0.2), "window").text.endswith(
        "Normal windows score higher than anomalous ones."
    )
    assert missing_for_evaluation(figures(anomalous=0), "window")[0].startswith(
        "anomalous test windows of"
    )


def test_without_a_baseline_the_figure_stands_alone() -> None:
    assert verdict(figures() | {"baselines": {}}).text == (
        "Usable: AUROC 0.900 [0.800, 0.950], matched 0.850."
    )


def test_a_matched_figure_of_few_patients_is_told_as_none() -> None:
    few = {"value": 0.85, "ci95": None, "note": "2 patients: no figure"}
    assert (
        "matched 0.850 (2 patients: no figure)" in verdict(figures() | {"matched_auroc": few}).text
    )


def test_what_an_evaluation_lacks_is_told() -> None:
    assert missing_for_evaluation(figures()) == []
    assert missing_for_evaluation(figures(anomalous=0)) == [
        "anomalous test images of 5 patients at least; there are none"
    ]
    assert missing_for_evaluation(figures(patients=1, anomalous=1)) == [
        "anomalous test images of 5 patients at least; there is 1 image of 1 patient"
    ]

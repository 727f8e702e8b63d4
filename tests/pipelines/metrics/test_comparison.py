"""Figures of several methods, against values that are known beforehand."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from pipelines.metrics.comparison import Judged, compare
from pipelines.metrics.image import image_metrics, mean_figure
from pipelines.metrics.pixel import PixelHistogram, mean_pixel_ap, pixel_metrics
from pipelines.metrics.rows import ScoreRow
from transforms.errors import InputError

LABELS = [0, 1] * 6
PATIENTS = [f"p{number}" for number in range(6) for _ in range(2)]
PERFECT = [float(label) for label in LABELS]
WORST = [-one for one in PERFECT]
CHANCE = [0.0] * len(LABELS)
TRIVIAL = [1.0 - one if number == 0 else one for number, one in enumerate(PERFECT)]


def histogram(values: list[float]) -> PixelHistogram:
    """A picture of two pixels per patient, the second one a lesion."""
    found = PixelHistogram(np.linspace(-2, 2, 41))
    for patient, low, high in zip(PATIENTS[::2], values[::2], values[1::2], strict=True):
        found.add(patient, [[low, high]], [[False, True]])
    return found


def judged(scores: list[float], **metrics: float) -> Judged:
    rows = [
        ScoreRow(
            case=f"c{number}", patient=PATIENTS[number], level="image", slice=0,
            label=LABELS[number], score=score, baselines={"area": TRIVIAL[number], "flat": 0.0},
        )
        for number, score in enumerate(scores)
    ]  # fmt: skip
    known: dict[str, Any] = {name: {"value": v, "ci95": [0, 1]} for name, v in metrics.items()}
    return Judged(rows, histogram(scores), {"area": histogram(TRIVIAL)}, known)


def test_the_mean_of_trainings_and_its_difference() -> None:
    assert mean_figure(LABELS, [PERFECT, CHANCE], PATIENTS).value == pytest.approx(0.75)
    difference = mean_figure(LABELS, [PERFECT, CHANCE], PATIENTS, minus=[WORST])
    assert difference.value == pytest.approx(0.75) and difference.ci95 == (0.75, 0.75)
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, len(LABELS)))
    one = mean_figure(LABELS, [first], PATIENTS)
    assert one == image_metrics(LABELS, first, CHANCE, PATIENTS)["image_auroc"]
    assert mean_figure(LABELS, [first, second], PATIENTS, minus=[second, first]).ci95 == (0, 0)


def test_the_mean_of_maps_and_its_difference() -> None:
    first, second = histogram(PERFECT), histogram(TRIVIAL)
    truth = LABELS
    known = [average_precision_score(truth, scores) for scores in (PERFECT, TRIVIAL)]
    assert mean_pixel_ap([first, second]).value == pytest.approx(np.mean(known))
    assert mean_pixel_ap([first], minus=[second]).value == pytest.approx(known[0] - known[1])
    assert mean_pixel_ap([second]) == pixel_metrics(second, 0.0)["pixel_ap"]
    assert mean_pixel_ap([second, first], minus=[first, second]).ci95 == (0, 0)
    assert mean_pixel_ap([PixelHistogram()]).value is None
    with pytest.raises(InputError, match="same patients"):
        mean_pixel_ap([first], minus=[PixelHistogram()])


def test_methods_are_compared_with_aeflow_and_the_best_trivial_score() -> None:
    found = compare(
        {
            "aeflow": [judged(PERFECT, sensitivity=0.5)],
            "other": [judged(CHANCE, sensitivity=0.2), judged(PERFECT, sensitivity=0.4)],
        }
    )
    ours, other = found["methods"]["aeflow"], found["methods"]["other"]
    assert found["images"] == len(LABELS) and found["best_trivial"] == "area"
    trivial = 1 - 0.5 / 6  # one of six normals ties with all anomalous images
    assert found["baselines"]["area"]["image_auroc"]["value"] == pytest.approx(trivial)
    assert ours["minus_trivial"]["value"] == pytest.approx(1 - trivial)
    assert other["minus_reference"]["value"] == pytest.approx(-0.25)
    assert other["minus_trivial"]["value"] == pytest.approx(0.75 - trivial)
    assert "minus_reference" not in ours
    assert ours["sensitivity"] == {"value": 0.5, "ci95": [0, 1]}
    assert other["sensitivity"] == {"value": pytest.approx(0.3), "ci95": None}
    known = average_precision_score(LABELS, TRIVIAL)
    assert ours["pixel_minus_trivial"]["value"] == pytest.approx(1 - known)


def test_only_images_that_all_have_scored_count() -> None:
    fewer = judged(PERFECT)
    lacking = Judged(fewer.rows[2:], fewer.pixels, {}, {})
    found = compare({"aeflow": [judged(PERFECT)], "other": [lacking]})
    assert found["images"] == len(LABELS) - 2
    assert compare({"aeflow": [Judged([], PixelHistogram(), {}, {})]})["images"] == 0

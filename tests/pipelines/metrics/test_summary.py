"""The content of metrics.json."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipelines.data.baselines import BASELINES
from pipelines.metrics.pixel import PixelHistogram
from pipelines.metrics.rows import ScoreRow
from pipelines.metrics.summary import PIXEL_FIGURES, summarize


def make_rows(count: int = 24, head: bool = False, seed: int = 0) -> list[ScoreRow]:
    rng = np.random.default_rng(seed)
    rows: list[ScoreRow] = []
    for index in range(count):
        label = index % 2
        score = float(rng.normal() + 2 * label)
        parts = {"flow": score + float(rng.normal()), "recon": float(rng.normal())}
        parts |= {"head": float(rng.normal())} if head else {}
        baselines = {name: float(rng.normal()) for name in BASELINES}
        baselines["sharpness"] = -float(rng.uniform(1.0, 1.05))
        row = ScoreRow(
            case=f"c{index // 4}",
            patient=f"p{index // 4}",
            level="slice",
            slice=index % 4 + 10,
            label=label,
            score=score,
            parts=parts,
            percentile=50.0,
            flagged=score > 1,
            baselines=baselines,
        )
        rows.append(row)
    return rows


def make_pixels(seed: int = 0) -> PixelHistogram:
    rng = np.random.default_rng(seed)
    histogram = PixelHistogram()
    for patient in range(5):
        mask = np.zeros((8, 8), bool)
        mask[:3, :3] = True
        histogram.add(f"p{patient}", rng.normal(size=(8, 8)) + 2 * mask, mask)
    return histogram


def volume_rows(rows: list[ScoreRow]) -> list[ScoreRow]:
    """A row for each case, every second one anomalous; case 5 is of unknown label."""
    volumes = []
    for number, case in enumerate(dict.fromkeys(row.case for row in rows)):
        row = next(row for row in rows if row.case == case)
        label = None if number == 5 else number % 2
        row = replace(row, level="volume", slice=None, label=label, score=float(number))
        flagged = None if number > 2 else bool(number % 2)
        volumes.append(replace(row, percentile=None, flagged=flagged))
    return volumes


def summary(
    rows: list[ScoreRow], volumetric: bool = True, **pixels: PixelHistogram
) -> dict[str, Any]:
    result = summarize(
        rows,
        pixels.get("ours", PixelHistogram()),
        {"intensity": pixels.get("theirs", PixelHistogram())},
        threshold=1.0,
        pixel_threshold=2.0,
        volumetric=volumetric,
    )
    json.dumps(result, allow_nan=False)  # what is written must be JSON
    return result


def figures(content: Any, where: str = "") -> dict[str, dict[str, Any]]:
    """Every dictionary that holds a value, by its path."""
    if not isinstance(content, dict):
        return {}
    if "value" in content:
        return {where: content}
    return {
        path: figure
        for name, inner in content.items()
        for path, figure in figures(inner, f"{where}/{name}").items()
    }


@pytest.fixture(scope="module")
def full() -> dict[str, Any]:
    return summary(make_rows(head=True), ours=make_pixels(), theirs=make_pixels(1))


def test_every_figure_has_a_value_and_an_interval(full: dict[str, Any]) -> None:
    found = figures(full)
    of = ("normal", "anomalous", "patients", "normal_patients", "anomalous_patients")
    counts = [f"/n_{name}" for name in of]
    fixed = {"/threshold", "/pixel_threshold", *counts}
    assert fixed <= set(found) and len(found) > 40
    assert set(full) - {path.split("/")[1] for path in found} == {"volumes", "patients"}
    for path, figure in found.items():
        assert {"value", "ci95"} <= set(figure), path
        assert isinstance(figure["value"], float), path
        if path not in fixed:
            low, high = figure["ci95"]
            assert low <= high, path
    assert set(PIXEL_FIGURES) | {"image_auroc", "image_ap", "f1_oracle", "sensitivity"} <= set(full)
    assert set(full["parts"]) == {"flow_score", "recon_score", "head_score"}
    assert full["n_normal"]["value"] == full["n_anomalous"]["value"] == 12
    assert full["n_patients"]["value"] == 6
    assert full["n_normal_patients"]["value"] == full["n_anomalous_patients"]["value"] == 6
    assert full["threshold"]["value"] == 1.0 and full["pixel_threshold"]["value"] == 2.0


def test_the_values_are_those_of_the_rows(full: dict[str, Any]) -> None:
    rows = make_rows(head=True)
    labels = [row.label for row in rows]

    def auroc(name: str) -> float:
        return float(roc_auc_score(labels, [row.cells()[name] for row in rows]))

    assert full["image_auroc"]["value"] == pytest.approx(auroc("score"))
    assert full["parts"]["flow_score"]["image_auroc"]["value"] == pytest.approx(auroc("flow_score"))
    flagged = [row.flagged for row in rows if row.label == 1]
    assert full["sensitivity"]["value"] == pytest.approx(np.mean(flagged))
    assert set(full["baselines"]) == set(BASELINES)
    for name, content in full["baselines"].items():
        assert content["image_auroc"]["value"] == pytest.approx(auroc(name))
        difference = auroc("score") - auroc(name)
        assert content["difference"]["value"] == pytest.approx(difference)
        matched = full["matched_auroc"]["value"] - content["matched_auroc"]["value"]
        assert content["matched_difference"]["value"] == pytest.approx(matched)


def test_volumes_are_matched_by_level_and_pictures_by_sharpness(full: dict[str, Any]) -> None:
    assert full["matched_auroc"]["matched_by"] == "slice"

    def low(row: ScoreRow) -> bool:
        return row.slice is not None and row.slice < 12

    rows = [
        replace(row, baselines={**row.baselines, "sharpness": -1.0 if low(row) else -2.0})
        for row in make_rows()
    ]
    pictures = summary(rows, volumetric=False)
    assert "volumes" not in pictures and set(pictures["patients"]) == {f"p{n}" for n in range(6)}
    assert pictures["matched_auroc"]["matched_by"] == "sharpness"
    assert pictures["matched_auroc"]["pairs"] == 2 * 6 * 6  # two levels of sharpness
    rows = [replace(row, slice=10 if low(row) else 20) for row in rows]
    assert summary(rows)["matched_auroc"]["pairs"] == 2 * 6 * 6
    unknown = [replace(row, baselines={}) for row in make_rows()]
    without = summary(unknown, volumetric=False)
    assert without["matched_auroc"]["value"] is None and without["baselines"] == {}


def test_pixels_are_compared_with_the_intensity_map(full: dict[str, Any]) -> None:
    intensity = full["baselines"]["intensity"]
    assert intensity["pixel_ap"]["value"] != full["pixel_ap"]["value"]
    assert intensity["dice_oracle"]["value"] > 0 and "dice_at_threshold" not in intensity
    same = summary(make_rows(), ours=make_pixels(), theirs=make_pixels())
    assert same["baselines"]["intensity"]["pixel_ap"] == same["pixel_ap"]
    assert "pixel_ap" not in same["baselines"]["area"]


def test_a_part_that_is_trivial_stands_beside_the_baselines() -> None:
    rows = [replace(r, baselines=r.baselines | {"normative": r.score}) for r in make_rows()]
    found = summary(rows)["baselines"]["normative"]
    assert found["difference"]["value"] == 0 and found["matched_difference"]["value"] == 0


def test_rows_without_a_label_do_not_count() -> None:
    rows = make_rows()
    unlabelled = [replace(row, label=None, score=100.0, patient="other") for row in rows[:5]]
    assert summary(rows + unlabelled) == summary(rows)


def test_volumes_have_figures_of_their_own(full: dict[str, Any]) -> None:
    rows = make_rows(head=True)
    result = summary([*rows, *volume_rows(rows)])
    for name in ("n_normal", "image_auroc", "matched_auroc", "sensitivity", "parts"):
        assert result[name] == full[name]  # those of the slices alone
    assert result["baselines"]["mean"] == full["baselines"]["mean"] and full["volumes"] == {}
    volumes = result["volumes"]
    assert volumes["n_normal"]["value"] == 3 and volumes["n_anomalous"]["value"] == 2
    # Scores 0, 2 and 4 are normal, 1 and 3 anomalous; only 1 is flagged.
    assert volumes["image_auroc"]["value"] == pytest.approx(3 / 6)
    assert volumes["sensitivity"]["value"] == 0.5 and volumes["specificity"]["value"] == 1.0


def test_each_patient_is_told_of() -> None:
    rows = [replace(row, patient="other", label=0) for row in make_rows(4)] + make_rows()
    result = summary([*rows, *volume_rows(rows)], ours=make_pixels())["patients"]
    assert list(result) == ["other", *(f"p{n}" for n in range(6))]
    own = [row for row in rows if row.patient == "p0"]
    labels, scores = [row.label for row in own], [row.score for row in own]
    assert result["p0"]["n_normal"] == result["p0"]["n_anomalous"] == 2
    assert result["p0"]["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert result["p0"]["flagged"] == sum(bool(row.flagged) for row in own)
    assert 0 < result["p0"]["dice_at_threshold"] < 1
    assert result["other"]["image_auroc"] is None and result["other"]["n_normal"] == 4
    assert result["p5"]["dice_at_threshold"] is None  # no pixels of this patient


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_defines_no_ranking(label: int) -> None:
    result = summary([row for row in make_rows() if row.label == label])
    for name in ("image_auroc", "matched_auroc", "pixel_ap"):
        assert result[name]["value"] is None and result[name]["ci95"] is None
    assert result["baselines"]["mean"]["difference"]["value"] is None
    for name in ("image_ap", "accuracy", "f1", "f1_oracle"):
        assert result[name]["value"] is None
    assert result["baselines"]["mean"]["image_ap"]["value"] is None
    rate = "specificity" if label == 0 else "sensitivity"
    assert result[rate]["value"] is not None


@pytest.mark.parametrize("rows", [[], [replace(row, label=None) for row in make_rows(4)]])
def test_nothing_labelled_leaves_the_counts(rows: list[ScoreRow]) -> None:
    result = summary(rows)
    assert result["n_normal"]["value"] == 0 and result["baselines"] == {}
    assert "image_auroc" not in result

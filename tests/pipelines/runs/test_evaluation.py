"""What an evaluation measures, writes, tracks and tells."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.cohort import Data
from pipelines.metrics.verdict import Verdict
from pipelines.runs.evaluation import Evaluation, about_model, told_figures, tracked_figures
from transforms.errors import InputError

MODEL = {"created": "now", "versions": {"torch": "2"}, "modalities": ["image"], "split": {}}
METRICS: dict[str, Any] = {
    "n_normal": {"value": 4.0, "ci95": None},
    "n_anomalous": {"value": 1.0, "ci95": None},
    "n_patients": {"value": 5.0, "ci95": None},
    "image_auroc": {"value": 0.9, "ci95": [0.8, 0.95]},
    "matched_auroc": {"value": None, "ci95": None},
    "dice_oracle": {"value": 0.5, "ci95": None, "note": "2 patients: no figure"},
    "baselines": {
        "mean": {
            "image_auroc": {"value": 0.7, "ci95": None},
            "difference": {"value": 0.2, "ci95": [0.1, 0.3]},
        },
        "area": {
            "image_auroc": {"value": None, "ci95": None},
            "difference": {"value": None, "ci95": None},
        },
    },
    "volumes": {"image_auroc": {"value": 0.6, "ci95": None}},
    "patients": {"p0": {"image_auroc": 0.5}},
    "notes": ["these are phantoms"],
}


@pytest.fixture
def make_run(
    make_cases: Callable[..., Any], evaluator: Any, tracker: Any, data: Data, reports: list[Any]
) -> Callable[..., Evaluation]:
    volumes = replace(data, cohort=replace(data.cohort, volumetric=True))

    def make(output_dir: Path, **how: Any) -> Evaluation:
        return Evaluation(make_cases(output_dir, **how), evaluator, tracker, volumes, MODEL)

    return make


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_all_files_are_written(
    make_run: Callable[..., Evaluation], tracker: Any, data: Data, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    with pytest.raises(InputError, match="2 of 7"):
        make_run(folder, failures=2).run()
    names = ["metrics.json", "scores.csv", "report.html"]
    assert tracker.artifacts == names
    assert sorted(path.name for path in folder.glob("[!.]*")) == sorted(names)
    metrics = load(folder / "metrics.json")
    assert metrics["notes"] == ["a note"] and metrics["about"] == about_model(MODEL, data)
    assert metrics["n_calibration"] == {"value": 40, "ci95": None}
    assert metrics["n_failed"] == {"value": 2, "ci95": None}
    assert metrics["target_fpr"]["value"] == pytest.approx(0.05)
    assert metrics["threshold"]["value"] == 1.5 and metrics["pixel_threshold"]["value"] == 2.5
    assert metrics["n_normal"]["value"] == 5 and metrics["dice_at_threshold"]["value"] == 1.0
    assert metrics["volumes"]["n_anomalous"]["value"] == 1
    assert set(metrics["patients"]) == {"p0", "p1", "p2", "p3", "p4"}
    for name in ("failures.csv", "roc.png"):
        (folder / name).write_text("")
        tracker.artifacts.clear()
        make_run(folder).run()
        assert name in tracker.artifacts


def test_figures_are_tracked_told_and_reported(
    make_run: Callable[..., Evaluation],
    tracker: Any,
    data: Data,
    reports: list[Any],
    tmp_path: Path,
    lines: Callable[[], str],
) -> None:
    make_run(tmp_path / "out").run()
    metrics = load(tmp_path / "out" / "metrics.json")
    assert tracker.told == ["start evaluation", "enter", "leave", "finish"]
    told = {"modalities": "image", "device": "cpu"}
    assert tracker.parameters == about_model(MODEL, data) | told
    assert tracker.tags["layout"] == "folder" and tracker.tags["modalities"] == "image"
    assert tracker.data == {"testing": {"test_cases": 1, "test_patients": 1}}
    assert tracker.metrics == tracked_figures(metrics) and "test/image_auroc" in tracker.metrics
    assert metrics["pixel_ap"]["note"] == "2 patients: no figure"
    assert "test/pixel_ap" not in tracker.metrics
    (content,) = reports
    assert content.title == "Evaluation" and content.metrics == metrics
    judged = str(content.verdict)
    assert tracker.tags["mlflow.note.content"] == judged
    assert metrics["verdict"]["kind"] == content.verdict.kind == tracker.tags["verdict"]
    assert list(content.about)[:4] == ["cases", "device", "duration", "finished"]
    assert content.about["cases"] == 7 and content.about["layout"] == "folder"
    summary = lines()
    assert all(line in summary for line in told_figures(metrics)) and judged in summary
    assert str(tmp_path / "out") in summary and "tracking   off" in summary


def test_the_description_is_whole_in_markdown(
    make_run: Callable[..., Evaluation],
    tracker: Any,
    reports: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged = Verdict("usable", "Usable.", "aeflow predict <images>")
    monkeypatch.setattr("pipelines.runs.evaluation.verdict", lambda *_: judged)
    make_run(tmp_path).run()
    assert tracker.tags["mlflow.note.content"] == "Usable. aeflow predict &lt;images&gt;"


def test_no_rows_give_no_figures(make_run: Callable[..., Evaluation], tmp_path: Path) -> None:
    make_run(tmp_path, rows=[]).run()
    metrics = load(tmp_path / "metrics.json")
    assert metrics["n_normal"]["value"] == 0 and "image_auroc" not in metrics
    assert (tmp_path / "scores.csv").exists()


def test_figures_and_baselines_are_told() -> None:
    told = "\n".join(told_figures(METRICS))
    for count in ("4 normal images", "1 anomalous image,", "5 patients"):
        assert count in told
    assert "0.900 [0.800, 0.950]" in told
    assert "matched_auroc" not in told and "baseline area" not in told
    assert "0.200 [0.100, 0.300]" in told and "0.500 (2 patients: no figure)" in told


def test_an_evaluation_without_labels_is_told() -> None:
    bare = {name: METRICS[name] for name in ("n_normal", "n_anomalous", "n_patients")}
    assert told_figures(bare | {"baselines": {}}) == [
        "Evaluated on 4 normal images, 1 anomalous image, 5 patients"
    ]


def test_only_defined_figures_are_tracked() -> None:
    tracked = tracked_figures(METRICS)
    assert tracked == {
        "test/n_normal": 4.0, "test/n_anomalous": 1.0, "test/n_patients": 5.0,
        "test/image_auroc": 0.9, "test/image_auroc_low": 0.8, "test/image_auroc_high": 0.95,
        "test/volumes/image_auroc": 0.6, "baseline/mean/image_auroc": 0.7,
        "baseline/mean/difference": 0.2, "baseline/mean/difference_low": 0.1,
        "baseline/mean/difference_high": 0.3,
    }  # fmt: skip


def test_results_tell_of_model_and_data(data: Data) -> None:
    about = about_model(MODEL, data)
    assert about["model_created"] == "now" and about["data_fingerprint"] == data.fingerprint
    json.dumps(about)

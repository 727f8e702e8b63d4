"""The frame of an evaluation, and the last words of a run."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.data.cases import Case, Cohort, FailedCase
from pipelines.data.cohort import Data
from pipelines.data.splits import Split
from pipelines.runs.session import EvaluationSession, about_model
from pipelines.runs.summary import log_evaluation, refuse_failures, tell_summary
from transforms.errors import InputError

METRICS: dict[str, Any] = {
    "n_normal": {"value": 4.0, "ci95": None},
    "n_anomalous": {"value": 3.0, "ci95": None},
    "n_patients": {"value": 5.0, "ci95": None},
    "image_auroc": {"value": 0.9, "ci95": [0.8, 0.95]},
    "matched_auroc": {"value": None, "ci95": None},
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


class FakeTracker:
    """Notes what is asked of it."""

    where = "off"

    def __init__(self) -> None:
        self.told: list[str] = []
        self.parameters: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}
        self.artifacts: list[str] = []

    def start(self, parameters: dict[str, Any], tags: dict[str, str]) -> None:
        self.parameters = dict(parameters)
        self.told.append(f"start {tags['phase']}")

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        self.metrics |= metrics

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        assert path.exists()
        self.artifacts.append(path.name)

    def guard(self) -> "FakeTracker":
        return self

    def __enter__(self) -> None:
        self.told.append("enter")

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.told.append("leave" if kind is None else "fail")

    def finish(self) -> None:
        self.told.append("finish")


class FakeEvaluation:
    about = {"layout": "folder"}

    def __init__(self, output_dir: Path, error: Exception | None = None, failures: int = 0) -> None:
        self.output_dir = output_dir
        self.error = error
        self.about_report: dict[str, Any] = {}
        self.cases: Any = SimpleNamespace(
            dataset=[0] * 7,
            failures=[FailedCase(Case("f", "p", ()), "cut")] * failures,
            output_dir=output_dir,
            evaluator=SimpleNamespace(state=SimpleNamespace(device="cpu")),
        )

    def run(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        (self.output_dir / "metrics.json").write_text("{}")
        return METRICS

    def report(self, title: str, about: dict[str, Any], history: Any = ()) -> Path:
        self.about_report = {"title": title, **about}
        (self.output_dir / "report.html").write_text("report")
        return self.output_dir / "report.html"

    def files(self) -> list[Path]:
        return [self.output_dir / "metrics.json", self.output_dir / "report.html"]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, logger="pipelines.runs.summary")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def test_an_evaluation(tmp_path: Path, lines: Any) -> None:
    tracker: Any = FakeTracker()
    evaluation: Any = FakeEvaluation(tmp_path / "evaluation")
    EvaluationSession(evaluation, tracker).run()
    assert tracker.told == ["start evaluation", "enter", "leave", "finish"]
    assert tracker.parameters["layout"] == "folder"
    assert tracker.artifacts == ["metrics.json", "report.html"]
    assert tracker.metrics["image_auroc"] == 0.9
    assert evaluation.about_report["title"] == "Evaluation"
    assert evaluation.about_report["cases"] == 7 and evaluation.about_report["device"] == "cpu"
    assert str(tmp_path / "evaluation" / "report.html") in lines()


def test_a_failing_evaluation_fails_the_run(tmp_path: Path) -> None:
    tracker: Any = FakeTracker()
    evaluation: Any = FakeEvaluation(tmp_path, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        EvaluationSession(evaluation, tracker).run()
    assert tracker.told == ["start evaluation", "enter", "fail"]


def test_a_folder_that_cannot_be_made_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tracker: Any = FakeTracker()
    evaluation: Any = FakeEvaluation(tmp_path / "file" / "out", KeyError("work"))
    with pytest.raises(InputError, match="output_dir"):
        EvaluationSession(evaluation, tracker).run()
    assert tracker.told == []


def test_cases_left_out_end_a_run_that_is_complete_otherwise(tmp_path: Path, lines: Any) -> None:
    tracker: Any = FakeTracker()
    evaluation: Any = FakeEvaluation(tmp_path, failures=2)
    with pytest.raises(InputError, match="2 of 7 cases could not be used") as caught:
        EvaluationSession(evaluation, tracker).run()
    assert tracker.told == ["start evaluation", "enter", "leave", "finish"]
    assert (tmp_path / "report.html").exists() and "Evaluated on" in lines()
    assert str(tmp_path / "failures.csv") in str(caught.value)
    assert "The first, f: cut" in str(caught.value) and "all others" in str(caught.value)
    refuse_failures(FakeEvaluation(tmp_path).cases)
    with pytest.raises(InputError, match="7 of 7 cases") as caught:
        refuse_failures(FakeEvaluation(tmp_path, failures=7).cases)
    assert "all others" not in str(caught.value)


def test_the_summary_tells_figures_baselines_and_places(lines: Any) -> None:
    tell_summary(METRICS, {"model": "models/model.pt"})
    told = lines()
    assert "Note: these are phantoms" in told
    for count in ("4 normal images", "3 anomalous images", "5 patients"):
        assert count in told
    assert "0.900 [0.800, 0.950]" in told and "not defined here" in told
    assert "0.200 [0.100, 0.300]" in told and "models/model.pt" in told


def test_the_summary_bears_an_evaluation_without_labels(lines: Any) -> None:
    bare = {name: METRICS[name] for name in ("n_normal", "n_anomalous", "n_patients", "notes")}
    tell_summary(bare | {"baselines": {}}, {})
    assert "Evaluated on 4 normal images" in lines()


def test_only_defined_figures_are_tracked(tmp_path: Path) -> None:
    tracker: Any = FakeTracker()
    evaluation: Any = FakeEvaluation(tmp_path)
    evaluation.report("Evaluation", {})
    log_evaluation(tracker, evaluation, evaluation.run())
    assert tracker.metrics["baseline_mean_auroc"] == 0.7
    assert "matched_auroc" not in tracker.metrics
    assert "baseline_area_auroc" not in tracker.metrics
    assert all(isinstance(value, float) for value in tracker.metrics.values())


def test_results_tell_of_model_and_data(tmp_path: Path) -> None:
    cases = (Case("a", "a", (), label=0),)
    cohort = Cohort("folder", tmp_path, cases, ("image",), False)
    data = Data(cohort, Split((), (), cases), ())
    model = {"created": "now", "versions": {"torch": "2"}, "modalities": ["image"], "split": {}}
    about = about_model(model, data)
    assert about["model_created"] == "now" and about["data_fingerprint"] == data.fingerprint
    json.dumps(about)

"""The frame of a run."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ignite.engine import Engine, Events

from pipelines.data.cases import Case, Cohort, FailedCase
from pipelines.data.cohort import Data, seen_content
from pipelines.data.slices import CaseLoader
from pipelines.data.splits import Split
from pipelines.runs import training as session
from pipelines.runs.training import TrainingSession, installed_versions, plain_options
from pipelines.scoring.model_file import MODEL_NAME
from pipelines.scoring.volume import CaseReference
from transforms.errors import InputError

METRICS: dict[str, Any] = {
    "n_normal": {"value": 4.0, "ci95": None},
    "n_anomalous": {"value": 3.0, "ci95": None},
    "n_patients": {"value": 5.0, "ci95": None},
    "image_auroc": {"value": 0.9, "ci95": [0.8, 0.95]},
    "baselines": {},
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
    def __init__(self, output_dir: Path, error: Exception | None = None, failures: int = 0) -> None:
        self.output_dir = output_dir
        self.error = error
        self.reported: Any = None
        self.cases: Any = SimpleNamespace(
            dataset=[0] * 7,
            failures=[FailedCase(Case("f", "p", ()), "cut")] * failures,
            output_dir=output_dir,
            evaluator=SimpleNamespace(reference=None),
        )

    def run(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        (self.output_dir / "metrics.json").write_text("{}")
        return METRICS

    def report(self, title: str, about: dict[str, Any], history: Any = ()) -> Path:
        self.reported = (title, about, list(history))
        return self.output_dir / "report.html"

    def files(self) -> list[Path]:
        return [self.output_dir / "metrics.json"]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    cases = tuple(Case(name, name, (), label=0) for name in "abc")
    cohort = Cohort("folder", tmp_path, cases, ("image",), False)
    return Data(cohort, Split(cases[:1], cases[1:2], cases[2:]), ("a note",))


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, logger="pipelines")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def training_of(
    data: Data,
    folder: Path,
    check: Any = lambda: None,
    error: Exception | None = None,
    failures: int = 0,
) -> tuple[TrainingSession, FakeTracker, Engine]:
    trainer: Any = Engine(lambda engine, batch: None)
    trainer.validator = Engine(lambda engine, batch: None)

    @trainer.on(Events.EPOCH_COMPLETED)
    def measure() -> None:
        for name in ("loss", "flow_loss", "recon_loss"):
            trainer.state.metrics[name] = 1.0 / trainer.state.epoch
        trainer.validator.state.metrics["val_loss"] = 2.0

    tracker: Any = FakeTracker()
    evaluation: Any = FakeEvaluation(folder / "out", error, failures)
    calibrator: Any = SimpleNamespace(
        check=check,
        scorer="scorer",
        slice_scores=np.array([4.0, 1.0, 2.0, 3.0]),
        loader=SimpleNamespace(dataset=SimpleNamespace(case_numbers=np.array([1, 0, 0, 0]))),
        target_fpr=0.1,
    )
    training = TrainingSession(
        data=data,
        preprocessing=CaseLoader(32),
        calibrator=calibrator,
        evaluation=evaluation,
        tracker=tracker,
        trainer=trainer,
        ckpt_dir=str(folder / "models"),
        output_dir=str(folder / "out"),
        seed=3,
        device="cpu",
    )
    return training, tracker, trainer


def test_a_whole_training(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Any
) -> None:
    saved: list[Any] = []

    def save(path: Path, scorer: Any, facts: Any) -> None:
        saved.append((scorer, facts))
        path.write_text("model")

    monkeypatch.setattr(session, "save_model", save)
    training, tracker, trainer = training_of(data, tmp_path)
    training.begin()
    trainer.run([0], max_epochs=2)
    training.save_model()
    training.finish()
    assert tracker.told == ["start training", "enter", "leave", "enter", "leave", "finish"]
    assert tracker.parameters["data_fingerprint"] == data.fingerprint
    assert tracker.parameters["modalities"] == "image" and "version_torch" in tracker.parameters
    assert tracker.metrics["image_auroc"] == 0.9
    expected = {"config.json", "split.json", "curves.png", "metrics.json", MODEL_NAME}
    assert expected <= set(tracker.artifacts)
    split = json.loads((tmp_path / "models" / "split.json").read_text())
    assert split == {"train": ["a"], "calibration": ["b"], "test": ["c"]}
    ((scorer, facts),) = saved
    assert scorer == "scorer" and facts["split"] == split and facts["notes"] == ["a note"]
    assert facts["preprocessing"] == CaseLoader(32).parameters and facts["seed"] == 3
    assert facts["versions"]["torch"] == installed_versions()["torch"]
    assert facts["case_scores"] == [] and facts["target_fpr"] == 0.1  # pictures have none
    assert facts["volumetric"] is False and facts["seen"] == seen_content(data)
    title, about, history = training.evaluation.reported  # type: ignore[attr-defined]
    assert title == "Training" and history == training.history
    assert about["training cases"] == about["calibration cases"] == about["test cases"] == 1
    assert about["seed"] == 3 and "version of torch" in about
    assert len(training.history) == 2
    assert training.history[1]["train_loss"] == 0.5 and training.history[1]["val_loss"] == 2.0
    assert str(tmp_path / "models" / MODEL_NAME) in lines()


def test_what_cannot_end_well_does_not_begin(data: Data, tmp_path: Path) -> None:
    def refuse() -> None:
        raise InputError("target_fpr: too few images")

    training, tracker, _ = training_of(data, tmp_path, refuse)
    with pytest.raises(InputError, match="too few"):
        training.begin()
    assert tracker.told == [] and not (tmp_path / "out").exists()
    (tmp_path / "models").write_text("a file in the way")
    training, tracker, _ = training_of(data, tmp_path)
    with pytest.raises(InputError, match="ckpt_dir"):
        training.begin()
    assert tracker.told == []


def test_a_failing_evaluation_fails_the_run(data: Data, tmp_path: Path) -> None:
    training, tracker, _ = training_of(data, tmp_path, error=ZeroDivisionError())
    training.begin()
    with pytest.raises(ZeroDivisionError):
        training.finish()
    assert tracker.told[-1] == "fail" and "finish" not in tracker.told


def test_cases_left_out_end_a_training_that_is_complete_otherwise(
    data: Data, tmp_path: Path, lines: Any
) -> None:
    training, tracker, _ = training_of(data, tmp_path, failures=1)
    training.begin()
    training.model_path.write_text("model")
    (training.model_path.parent / "split.json").write_text("{}")
    with pytest.raises(InputError, match="1 of 7 cases could not be used"):
        training.finish()
    assert tracker.told[-1] == "finish" and MODEL_NAME in tracker.artifacts
    assert str(training.model_path) in lines()


def test_held_out_volumes_are_what_new_ones_are_judged_by(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Any] = []
    monkeypatch.setattr(session, "save_model", lambda path, scorer, facts: saved.append(facts))
    volumes = replace(data, cohort=replace(data.cohort, volumetric=True))
    training, _, _ = training_of(volumes, tmp_path)
    training.begin()
    training.save_model()
    assert training.case_reference() == CaseReference((3.0, 4.0), 0.1)
    assert training.evaluation.cases.evaluator.reference == CaseReference((3.0, 4.0), 0.1)
    assert saved[0]["case_scores"] == [3.0, 4.0] and saved[0]["volumetric"] is True


def test_options_are_the_plain_values_of_a_config() -> None:
    config = {
        "max_epochs": 3,
        "flow_strides": [16],
        "dataset_dir": None,
        "_meta_": "x",
        "train": {"a": 1},
        "run": "%training",
        "training": ["$1"],
        "initialize": [{}],
    }
    assert plain_options(config) == {"max_epochs": 3, "flow_strides": [16], "dataset_dir": None}

"""The frame of a run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from pipelines.data.cohort import Data, seen_content
from pipelines.data.slices import CaseLoader
from pipelines.runs import training as session
from pipelines.runs.training import Training, installed_versions
from pipelines.scoring.model_file import MODEL_NAME
from pipelines.scoring.volume import CaseReference
from transforms.errors import InputError

MakeTraining = Callable[..., tuple[Training, Engine]]


@pytest.fixture
def make_training(
    make_cases: Callable[..., Any], evaluator: Any, tracker: Any, data: Data, reports: list[Any]
) -> MakeTraining:
    def make(
        folder: Path, data: Data = data, check: Any = lambda: None, **how: Any
    ) -> tuple[Training, Engine]:
        trainer: Any = Engine(lambda engine, batch: None)
        shown = SimpleNamespace(
            images=torch.rand(50, 1, 8, 8), context={"region": torch.ones(50, 1, 8, 8).bool()}
        )
        trainer.data_loader = SimpleNamespace(dataset=shown)
        trainer.validator = Engine(lambda engine, batch: None)

        @trainer.on(Events.EPOCH_COMPLETED)
        def measure() -> None:
            for name in ("loss", "flow_loss", "recon_loss"):
                trainer.state.metrics[name] = 1.0 / trainer.state.epoch
            trainer.validator.state.metrics["val_loss"] = 2.0

        calibrator: Any = SimpleNamespace(
            check=check,
            slice_scores=np.array([4.0, 1.0, 2.0, 3.0]),
            dataset=SimpleNamespace(case_numbers=np.array([1, 0, 0, 0])),
            target_fpr=0.1,
        )
        training = Training(
            case_run=make_cases(folder / "out", **how),
            evaluator=evaluator,
            tracker=tracker,
            data=data,
            preprocessing=CaseLoader(32),
            calibrator=calibrator,
            trainer=trainer,
            seed=3,
        )
        return training, trainer

    return make


def test_a_whole_training(
    make_training: MakeTraining,
    tracker: Any,
    evaluator: Any,
    data: Data,
    reports: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: Callable[[], str],
) -> None:
    saved: list[Any] = []

    def save(path: Path, scorer: Any, facts: Any) -> None:
        saved.append((scorer, facts))
        path.write_text("model")

    monkeypatch.setattr(session, "save_model", save)
    training, trainer = make_training(tmp_path)
    training.begin()
    trainer.run([0], max_epochs=2)
    training.save_model()
    training.finish()
    assert tracker.told == ["start training", "enter", "leave", "enter", "leave", "finish"]
    assert tracker.parameters["data_fingerprint"] == data.fingerprint
    assert tracker.parameters["modalities"] == "image" and "version_torch" in tracker.parameters
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert tracker.metrics["image_auroc"] == metrics["image_auroc"]["value"]
    assert metrics["about"] == {}
    expected = {"config.json", "split.json", "curves.png", "metrics.json", MODEL_NAME}
    assert expected <= set(tracker.artifacts)
    split = json.loads((tmp_path / "models" / "split.json").read_text())
    assert split == {"train": ["a"], "calibration": ["b"], "test": ["c"]}
    ((scorer, facts),) = saved
    assert scorer is evaluator.scorer and facts["split"] == split and facts["notes"] == ["a note"]
    assert facts["preprocessing"] == CaseLoader(32).parameters and facts["seed"] == 3
    assert facts["versions"]["torch"] == installed_versions()["torch"]
    assert facts["case_scores"] == [] and facts["target_fpr"] == 0.1  # pictures have none
    assert facts["volumetric"] is False and facts["seen"] == seen_content(data)
    (content,) = reports
    about = content.about
    assert content.title == "Training" and content.history == training.history
    assert len(content.regions) == 24
    assert all(one.shape == other.shape == (8, 8) for one, other in content.regions)
    assert list(about)[6:10] == ["seed", "device", "duration", "finished"]
    assert about["training cases"] == about["calibration cases"] == about["test cases"] == 1
    assert about["seed"] == 3 and "version of torch" in about
    assert len(training.history) == 2
    assert training.history[1]["train_loss"] == 0.5 and training.history[1]["val_loss"] == 2.0
    assert str(tmp_path / "models" / MODEL_NAME) in lines()


def test_what_cannot_end_well_does_not_begin(
    make_training: MakeTraining, tracker: Any, tmp_path: Path
) -> None:
    def refuse() -> None:
        raise InputError("target_fpr: too few images")

    training, _ = make_training(tmp_path, check=refuse)
    with pytest.raises(InputError, match="too few"):
        training.begin()
    assert tracker.told == [] and not (tmp_path / "out").exists()
    (tmp_path / "models").write_text("a file in the way")
    training, _ = make_training(tmp_path)
    with pytest.raises(InputError, match="ckpt_dir"):
        training.begin()
    assert tracker.told == []


def test_a_failing_evaluation_fails_the_run(
    make_training: MakeTraining, tracker: Any, tmp_path: Path
) -> None:
    training, _ = make_training(tmp_path, error=ZeroDivisionError())
    training.begin()
    with pytest.raises(ZeroDivisionError):
        training.finish()
    assert tracker.told[-1] == "fail" and "finish" not in tracker.told


def test_cases_left_out_end_a_training_that_is_complete_otherwise(
    make_training: MakeTraining, tracker: Any, tmp_path: Path, lines: Callable[[], str]
) -> None:
    training, _ = make_training(tmp_path, failures=1)
    training.begin()
    training.model_path.write_text("model")
    (training.model_path.parent / "split.json").write_text("{}")
    with pytest.raises(InputError, match="1 of 7 cases could not be used"):
        training.finish()
    assert tracker.told[-1] == "finish" and MODEL_NAME in tracker.artifacts
    assert str(training.model_path) in lines()


def test_held_out_volumes_are_what_new_ones_are_judged_by(
    make_training: MakeTraining,
    evaluator: Any,
    data: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved: list[Any] = []
    monkeypatch.setattr(session, "save_model", lambda path, scorer, facts: saved.append(facts))
    volumes = replace(data, cohort=replace(data.cohort, volumetric=True))
    training, _ = make_training(tmp_path, volumes)
    training.begin()
    training.save_model()
    assert training.case_reference() == CaseReference((3.0, 4.0), 0.1)
    assert evaluator.reference == CaseReference((3.0, 4.0), 0.1)
    assert saved[0]["case_scores"] == [3.0, 4.0] and saved[0]["volumetric"] is True

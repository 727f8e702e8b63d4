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

from networks import make_fusion
from networks.detectors.deep_svdd import DeepSVDD
from pipelines.data.cohort import Data, seen_content
from pipelines.data.slices import CaseLoader
from pipelines.runs import training as session
from pipelines.runs.training import Training, installed_versions
from pipelines.scoring.detection import Detection, SyntheticDetection
from pipelines.scoring.model_file import MODEL_NAME
from pipelines.scoring.stability import Stability
from pipelines.scoring.volume import CaseReference
from pipelines.training.resume import Checkpoints
from transforms.errors import InputError
from transforms.synthetic import SyntheticAnomalies

MakeTraining = Callable[..., tuple[Training, Engine]]


@pytest.fixture
def make_training(
    make_cases: Callable[..., Any],
    evaluator: Any,
    tracker: Any,
    data: Data,
    reports: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> MakeTraining:
    moved = [Stability("blur", 0.1, 0.05, 0.3, {"flow": 0.2})]
    monkeypatch.setattr(session, "measure_stability", lambda *given: moved)
    row = Detection("haze", "small", 4, 0.25, 0.75)
    found = SyntheticDetection(4, 4, 0.0, {"small": (2, 4)}, ["haze"], [row])
    monkeypatch.setattr(session, "measure_detection", lambda *given: found)
    monkeypatch.setattr(session, "highest_normals", lambda calibrator: ["a normal image"])
    monkeypatch.setattr(session, "fit_scope", lambda *given: torch.nn.Linear(1, 1))

    def make(
        folder: Path,
        data: Data = data,
        check: Any = lambda: "a rate is not supported",
        resume: str | None = None,
        **how: Any,
    ) -> tuple[Training, Engine]:
        trainer: Any = Engine(lambda engine, batch: None)
        shown = SimpleNamespace(
            region="body",
            images=torch.rand(50, 1, 8, 8),
            context={"region": torch.ones(50, 1, 8, 8).bool()},
        )
        trainer.data_loader = SimpleNamespace(dataset=shown)
        trainer.validator = Engine(lambda engine, batch: None)

        @trainer.on(Events.EPOCH_COMPLETED)
        def measure() -> None:
            for name in ("loss", "flow_loss", "recon_loss"):
                trainer.state.metrics[name] = 1.0 / trainer.state.epoch
            trainer.validator.state.metrics["val_loss"] = 2.0

        calibrator: Any = SimpleNamespace(
            scorer=None,
            loader=None,
            device="cpu",
            weights=None,
            dataset=None,
            check=check,
            slice_scores=np.array([4.0, 1.0, 2.0, 3.0]),
            case_numbers=np.array([1, 0, 0, 0]),
            patients=["q", "p", "p", "p"],
            fitted_on=0,
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
            synthetic=SyntheticAnomalies(),
            checkpoints=None
            if resume is None
            else Checkpoints(str(folder / "models"), resume, beside={"tracker": tracker}),
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
    given = {"seed": 3, "hidden": None, "intensity": "auto"}
    monkeypatch.setattr("pipelines.runs.session.executed_options", lambda: dict(given))
    training, trainer = make_training(tmp_path)
    training.begin()
    assert tracker.parameters["hidden"] == 64 and tracker.parameters["seed"] == 3
    trainer.run([0], max_epochs=2)
    training.save_model()
    training.finish()
    assert tracker.told == ["start training", "enter", "leave", "enter", "leave", "finish"]
    assert tracker.parameters["data_fingerprint"] == data.fingerprint
    assert tracker.parameters["modalities"] == "image" and "torch" in tracker.parameters["version"]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert tracker.metrics["test/image_auroc"] == metrics["image_auroc"]["value"]
    assert metrics["about"] == {}
    assert metrics["synthetic_detection"]["rows"][0]["auroc"] == 0.75
    assert metrics["synthetic_detection"]["caveat"] and "small 25% flagged" in lines()
    expected = {"config.json", "split.json", "curves.png", "metrics.json", MODEL_NAME}
    assert expected <= set(tracker.artifacts)
    split = json.loads((tmp_path / "models" / "split.json").read_text())
    assert split == {"train": ["a"], "calibration": ["b"], "test": ["c"]}
    ((scorer, facts),) = saved
    assert (
        scorer is evaluator.scorer
        and facts["split"] == split
        and facts["notes"]
        == [
            "a note",
            "a rate is not supported",
        ]
    )
    assert facts["preprocessing"] == CaseLoader(32).parameters and facts["seed"] == 3
    assert facts["versions"]["torch"] == installed_versions()["torch"]
    assert facts["case_scores"] == [] and facts["target_fpr"] == 0.1  # pictures have none
    assert facts["volumetric"] is False and facts["seen"] == seen_content(data)
    (content,) = reports
    about = content.about
    assert content.title == "Training" and content.history == training.history
    assert content.held_out == () and len(content.examples) == 1
    assert content.stability == [
        {"change": "blur", "flagged": 0.1, "changed": 0.05, "score": 0.3, "flow_score": 0.2}
    ]
    assert "flow_score" in (tmp_path / "out" / "stability.csv").read_text()
    assert len(content.regions) == 24
    assert all(one.shape == other.shape == (8, 8) for one, other in content.regions)
    assert list(about)[6:11] == ["seed", "weights", "device", "duration", "finished"]
    assert about["training cases"] == about["calibration cases"] == about["test cases"] == 1
    assert about["seed"] == 3 and "version of torch" in about
    assert about["weights"] == "flow 0.75, head 0.25 (as given)"
    assert len(training.history) == 2
    assert training.history[1]["train_loss"] == 0.5 and training.history[1]["val_loss"] == 2.0
    assert str(tmp_path / "models" / MODEL_NAME) in lines()


def test_without_anomalous_images_the_held_out_normals_are_shown(
    make_training: MakeTraining, reports: list[Any], rows: list[Any], tmp_path: Path
) -> None:
    normal = [row for row in rows if row.label == 0]
    training, _ = make_training(tmp_path, rows=normal)
    training.begin()
    training.model_path.write_text("model")
    training.split_path.write_text("{}")
    training.finish()
    (content,) = reports
    assert content.held_out == [4.0, 1.0, 2.0, 3.0] and content.examples[-1] == "a normal image"
    assert content.verdict.kind == "not to be judged"


def test_an_interrupted_training_goes_on_or_is_given_up(
    make_training: MakeTraining, tracker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"alpha": 0.5, "resume": "auto", "device": "cpu", "run": "%training"}
    monkeypatch.setattr(session, "executed_config", lambda: dict(config))
    training, _ = make_training(tmp_path, resume="auto")
    training.history.append({"train_loss": 1.0})
    training.begin()
    training.checkpoints._write(None, None)  # type: ignore[union-attr]
    config |= {"resume": "never", "device": "cuda"}
    again, _ = make_training(tmp_path, resume="auto")
    again.begin()
    assert tracker.told == ["start training", "again a run", "start training"]
    assert again.history == [{"train_loss": 1.0}]
    config["alpha"] = 0.25
    with pytest.raises(InputError, match=r"another one: alpha was 0.5 and is 0.25\. Go on"):
        make_training(tmp_path, resume="auto")[0].begin()
    monkeypatch.setattr(session, "installed_versions", lambda: {"torch": "9"})
    with pytest.raises(InputError, match="version of torch was '.*' and is '9'"):
        make_training(tmp_path, resume="auto")[0].begin()
    del tracker.told[:]
    make_training(tmp_path, resume="never")[0].begin()
    assert tracker.told == ["close a run", "start training"]


def test_checkpoints_go_with_the_end_of_a_training(
    make_training: MakeTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "save_model", lambda path, *_: path.write_text("model"))
    training, _ = make_training(tmp_path, resume="auto")
    training.begin()
    training.save_model()
    assert (tmp_path / "models" / "resume").is_dir()
    training.finish()
    assert {path.name for path in (tmp_path / "models").glob("[!.]*")} == {MODEL_NAME, "split.json"}


def test_weights_are_told_with_where_they_come_from(
    make_training: MakeTraining, evaluator: Any, tmp_path: Path
) -> None:
    training, _ = make_training(tmp_path)
    training.calibrator.fitted_on = 24
    assert training._subject()["weights"] == "flow 0.75, head 0.25 (fitted on 24 patients)"
    evaluator.scorer.fusion = make_fusion("flow")
    training.calibrator.fitted_on = 0
    assert training._subject()["weights"] == "flow (as given)"


def test_what_cannot_end_well_does_not_begin(
    make_training: MakeTraining, evaluator: Any, data: Data, tracker: Any, tmp_path: Path
) -> None:
    def refuse() -> None:
        raise InputError("target_fpr: too few images")

    training, _ = make_training(tmp_path, check=refuse)
    with pytest.raises(InputError, match="too few"):
        training.begin()
    training, _ = make_training(tmp_path)
    training.labelled, evaluator.scorer.detector = data.cohort.cases, DeepSVDD()
    with pytest.raises(InputError, match="labelled_anomalies: .*, found 'deep_svdd'"):
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
    assert training.case_reference() == CaseReference((3.0, 4.0), 0.1, (1.0, 1.0))
    assert evaluator.reference == CaseReference((3.0, 4.0), 0.1, (1.0, 1.0))
    assert saved[0]["case_scores"] == [3.0, 4.0] and saved[0]["volumetric"] is True

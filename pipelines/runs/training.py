"""A training: its start and its model file; then it is an evaluation."""

from __future__ import annotations

import json
import logging
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Events
from numpy.typing import NDArray

from networks import Detector
from networks.scope import Scope
from pipelines.batch import CaseRun, Gathered
from pipelines.common import (
    FolderLock,
    counted,
    executed_config,
    installed_version,
    is_main,
    main_first,
    processes,
    replacing,
    write_csv,
    write_json,
)
from pipelines.data import (
    Case,
    CaseLoader,
    Data,
    LabelledAnomalies,
    SignalLoader,
    content_digest,
    seen_content,
)
from pipelines.export import check_registry, register_scorer
from pipelines.outputs import Example
from pipelines.runs.evaluation import Evaluation, about_data
from pipelines.runs.held_out import highest_normals, told_detection
from pipelines.scoring import (
    Calibrator,
    CaseEvaluator,
    CaseReference,
    SyntheticDetection,
    fit_scope,
    measure_detection,
    measure_stability,
    save_model,
)
from pipelines.tracking import Tracker, masked
from pipelines.training import Checkpoints, StageTrainer
from transforms.errors import InputError
from transforms.synthetic import SyntheticAnomalies

logger = logging.getLogger(__name__)

PREVIOUS = "previous.pt"
"""Name of the model that a training replaced, beside the new one."""

PLAN_NAME = "plan.json"
"""Name of the file beside a model that says how its options were chosen, if they were."""

SHOWN_REGIONS = 24
"""Training images that are shown with their regions."""

LABELLED_NOTE = (
    "Trained with {} beside the normal ones: what is like them is found "
    "more surely, and figures on anomalies of their source say little about others."
)

PACKAGES = ("aeflow", "torch", "monai", "numpy", "pytorch-ignite", "nibabel")

FREE = (
    "resume", "checkpoint_epochs", "checkpoint_minutes", "dataset_dir", "output_dir", "ckpt_dir",
    "tracking_uri", "system_metrics", "register_model", "save_maps", "device", "num_workers",
    "compile",
)  # fmt: skip
"""Options that may change when a training goes on; the data are known by their content."""


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    versions = {package: installed_version(package) or "not installed" for package in PACKAGES}
    return {"python": platform.python_version(), **versions}


def keep_previous(path: Path) -> None:
    """Keeps a file that is about to be replaced, under `PREVIOUS`; the one before it goes."""
    if path.is_file():
        with replacing(path.with_name(PREVIOUS)) as temporary:
            shutil.copy2(path, temporary)


def _require_learnt(detector: Detector) -> None:
    """Refuses a method that labelled anomalies would teach nothing."""
    if not any(stage.uses_mask for stage in detector.stages):
        raise InputError(
            "labelled_anomalies: expected a method that learns from them, such as aeflow or one "
            f"with a pre-training, found {detector.name!r}. Leave the option out, or train another "
            "method."
        )


class Training(Evaluation):
    """Frames a training: opens tracking, saves the model, evaluates, sums up.

    Args:
        case_run: scores the test cases.
        evaluator: the engine that it scores them with.
        tracker: the run's tracking.
        data: the data set.
        preprocessing: how cases become slices; recorded in the model.
        calibrator: fits the trained scorer.
        trainer: the engine whose loss curves are drawn, with those of its validator, and some of
            whose images with their regions.
        seed: the run's seed.
        register_model: name under which the scorer joins the MLflow model registry; None for not.
        checkpoints: from which an interrupted training goes on; None for none.
        synthetic: makes the anomalies of the pre-training, to see which the model finds; None for
            no such test.
        labelled: anomalies from which it learns beside the normal images; None for none.
        stability: whether to see what mild changes do to the held-out normal images.
    """

    title = "Training"
    tracked = (*Evaluation.tracked, "config.json", "curves.png", "regions.png", "stability.csv")

    def __init__(
        self,
        case_run: CaseRun,
        evaluator: CaseEvaluator,
        tracker: Tracker,
        data: Data,
        preprocessing: CaseLoader | SignalLoader,
        calibrator: Calibrator,
        trainer: StageTrainer,
        seed: int,
        register_model: str | None = None,
        checkpoints: Checkpoints | None = None,
        labelled: LabelledAnomalies | None = None,
        synthetic: SyntheticAnomalies | None = None,
        stability: bool = True,
    ) -> None:
        super().__init__(case_run, evaluator, tracker, data)
        self.preprocessing = preprocessing
        self.calibrator = calibrator
        self.model_path = case_run.model_path
        self.split_path = self.model_path.with_name("split.json")
        self.seed = seed
        self.labelled = () if labelled is None else labelled.cases
        self.synthetic = synthetic
        self.stability = bool(stability)
        self.detection: SyntheticDetection | None = None
        self.register_model = register_model
        self.config: dict[str, Any] = {}
        self.trainer = trainer
        self.locks.append(FolderLock(self.model_path.parent, "ckpt_dir"))
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._remember)
        self.checkpoints = checkpoints
        if checkpoints is not None:
            checkpoints.beside["session"] = self
            self.stops = checkpoints.stops

    def state_dict(self) -> dict[str, Any]:
        """What is told at the end of the epochs so far."""
        return {"history": list(self.history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what an earlier process has seen."""
        self.history = list(state["history"])

    def _remember(self, engine: Any) -> None:
        epoch = {f"train_{k}": v for k, v in engine.state.metrics.items()}
        epoch |= engine.validator.state.metrics
        self.history.append({name: float(value) for name, value in epoch.items()})

    def _open(self) -> None:
        """Checks what can be checked beforehand, and opens the tracking.

        A training that was interrupted goes on, in its own run; the run of one that is given up
        has failed.

        Raises:
            InputError: when the run could not end well.
        """
        self.config = executed_config()
        if self.labelled:
            _require_learnt(self.evaluator.scorer.detector)
        count = counted(len(self.labelled), "labelled anomalous case")
        labels = LABELLED_NOTE.format(count) if self.labelled else None
        for note in filter(None, (self.calibrator.check(), labels)):
            self.notes.append(note)
            logger.warning("Note: %s", note)
        check_registry(self.tracker, self.register_model)
        super()._open()
        logger.info("Tracking: %s", self.tracker.where)

    def _follow(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.follow()

    def _prepare(self) -> None:
        if self.config.get("tracking_uri"):
            self.config["tracking_uri"] = masked(str(self.config["tracking_uri"]))
        if self.checkpoints is not None:
            given_up = self.checkpoints.begin(self.identity())
            if "tracker" in given_up:
                self.tracker.close_dead(given_up["tracker"])
        with replacing(self.output_dir / "config.json") as temporary:
            temporary.write_text(json.dumps(self.config, indent=2, default=str))

    def identity(self) -> dict[str, Any]:
        """What makes two trainings the same: the data, the options and the versions."""
        options = json.loads(json.dumps(self.config, default=str))
        return {
            "the data's division": self.data.fingerprint,
            "the data's content": content_digest(self._known()),
            **{name: value for name, value in options.items() if name not in FREE},
            **({"number of processes": processes()} if processes() > 1 else {}),
            **{f"version of {name}": value for name, value in installed_versions().items()},
        }

    def _known(self) -> tuple[Case, ...]:
        """All cases that train or calibrate."""
        return (*self.data.split.train, *self.data.split.calibration, *self.labelled)

    def _clear(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.end()

    def _parameters(self) -> dict[str, Any]:
        options = super()._parameters()
        dataset: Any = self.trainer.data_loader.dataset  # type: ignore[union-attr]
        config = self.evaluator.scorer.detector.config  # without a contrast there is none
        found = {"contrast": "none", "region": dataset.region, **config}
        found |= self.preprocessing.parameters
        left_open = [name for name, value in options.items() if value in (None, "auto")]
        resolved = {name: found[name] for name in left_open if name in found}
        return options | resolved | {"version": installed_versions()}

    def _track_data(self) -> None:
        self._track_cases("training", self._known(), ("train", "calibration"))
        super()._track_data()

    def save_model(self) -> None:
        """Writes the calibrated model, whole or not at all; one of several processes does."""
        with self.tracker.guard():
            reference = self.case_reference()
            self.evaluator.reference = reference
            self.evaluator.scope = self.fit_scope()
            with main_first():
                if is_main():
                    self._write_model(reference)

    def _write_model(self, reference: CaseReference) -> None:
        keep_previous(self.model_path)
        save_model(self.model_path, self.evaluator.scorer, self.facts(reference))
        self.model_path.with_name(PLAN_NAME).unlink(missing_ok=True)  # of an earlier model
        write_json(self.split_path, self.data.split.as_dict())
        logger.info("Model written: %s", self.model_path)

    def case_reference(self) -> CaseReference:
        """The scores of the held-out normal volumes; pictures are judged one by one."""
        calibrator = self.calibrator
        if not self.volumetric:
            return CaseReference((), calibrator.target_fpr)
        return CaseReference.of_slices(
            calibrator.slice_scores,
            calibrator.case_numbers,
            calibrator.target_fpr,
            calibrator.patients,
        )

    def fit_scope(self) -> Scope:
        """Learns what the model is made for."""
        calibrator = self.calibrator
        synthetic = calibrator.weights.synthetic if calibrator.weights else None
        dataset: Any = self.trainer.data_loader.dataset  # type: ignore[union-attr]
        return fit_scope(dataset, calibrator.dataset, synthetic, self.seed)

    def facts(self, reference: CaseReference) -> dict[str, Any]:
        """Plain values that the model file carries beside the weights."""
        cohort = self.data.cohort
        return {
            "case_scores": list(reference.scores),
            "case_weights": list(reference.weights or ()),
            "target_fpr": reference.target_fpr,
            "scope": self.evaluator.scope.cpu().state_dict() if self.evaluator.scope else {},
            "preprocessing": self.preprocessing.parameters,
            "modalities": list(cohort.modalities),
            "volumetric": self.volumetric,
            "layout": cohort.layout,
            "split": self.data.split.as_dict(),
            "seen": seen_content(self.data, self.labelled),
            "fingerprint": self.data.fingerprint,
            "notes": self.notes,
            "seed": int(self.seed),
            "versions": installed_versions(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }

    def _track(self, metrics: Mapping[str, Any]) -> None:
        super()._track(metrics)
        self.tracker.log_artifact(self.model_path, "model")
        self.tracker.log_artifact(self.split_path, "model")
        if self.register_model:
            register_scorer(self.tracker, self.register_model, self.model_path)

    def _places(self) -> dict[str, Any]:
        return {"model": self.model_path} | super()._places()

    def _subject(self) -> dict[str, Any]:
        return about_data(self.data) | {"seed": self.seed, "weights": self._weights()}

    def _weights(self) -> str:
        fitted, config = self.calibrator.fitted_on, self.evaluator.scorer.fusion.config
        told = [
            f"{name} {weight:.2f}" for name, weight in config.get("weights", {}).items() if weight
        ]
        how = f"fitted on {fitted} patients" if fitted else "as given"
        return f"{', '.join(told) or config['score']} ({how})"

    def _regions(self) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        if self.data.cohort.signals:
            return []
        dataset: Any = self.trainer.data_loader.dataset  # type: ignore[union-attr]
        chosen = range(0, len(dataset.images), max(1, len(dataset.images) // SHOWN_REGIONS))
        return [
            (dataset.images[i, 0].numpy(), dataset.context["region"][i, 0].numpy())
            for i in chosen[:SHOWN_REGIONS]
        ]

    def _stability(self) -> list[dict[str, Any]]:
        if not self.stability:
            return []
        calibrator = self.calibrator
        found = measure_stability(calibrator.scorer, calibrator.loader, calibrator.device)
        rows = [one.as_dict() for one in found]
        write_csv(self.output_dir / "stability.csv", rows, tuple(rows[0]))
        return rows

    def _further(self) -> dict[str, Any]:
        if self.synthetic is None:
            return {}
        calibrator = self.calibrator
        self.detection = measure_detection(
            calibrator.scorer,
            calibrator.loader,
            calibrator.patients,
            self.synthetic,
            self.seed,
            calibrator.device,
        )
        return {"synthetic_detection": self.detection.as_dict()}

    def _lines(self, gathered: Gathered, metrics: Mapping[str, Any]) -> list[str]:
        lines = super()._lines(gathered, metrics)
        return lines if self.detection is None else [*lines, told_detection(self.detection)]

    def _held_out(self, metrics: Mapping[str, Any]) -> tuple[Sequence[float], list[Example]]:
        if metrics["n_anomalous"]["value"]:
            return super()._held_out(metrics)
        return self.calibrator.slice_scores.tolist(), highest_normals(self.calibrator)

    def _origin(self) -> dict[str, Any]:
        return {f"version of {name}": value for name, value in installed_versions().items()}

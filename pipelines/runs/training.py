"""What frames a run: its start, its model file, its evaluation and its summary."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from pipelines.common import (
    duration,
    executed_config,
    installed_version,
    writable_folder,
    write_json,
)
from pipelines.data import CaseLoader, Data, seen_content
from pipelines.export import check_registry, register_scorer
from pipelines.outputs import save_curves
from pipelines.runs.evaluation import Evaluation
from pipelines.runs.summary import log_evaluation, refuse_failures, tell_summary
from pipelines.scoring import MODEL_NAME, Calibrator, CaseReference, save_model
from pipelines.tracking import Tracker, masked

logger = logging.getLogger(__name__)

PACKAGES = ("aeflow", "torch", "monai", "numpy", "pytorch-ignite", "nibabel")


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    versions = {package: installed_version(package) or "not installed" for package in PACKAGES}
    return {"python": platform.python_version(), **versions}


class TrainingSession:
    """Frames a training: opens tracking, saves the model, evaluates, sums up.

    Args:
        data: the data set.
        preprocessing: how cases become slices; recorded in the model.
        calibrator: holds the trained scorer.
        evaluation: of the test cases.
        tracker: the run.
        trainer: the engine whose loss curves are drawn.
        validator: the engine of the held-out likelihood.
        ckpt_dir: folder of the model file.
        output_dir: folder of everything else.
        seed: the run's seed.
        device: where the run computes.
        register_model: name under which the scorer joins the MLflow model registry; None for not.
    """

    def __init__(
        self,
        data: Data,
        preprocessing: CaseLoader,
        calibrator: Calibrator,
        evaluation: Evaluation,
        tracker: Tracker,
        trainer: Engine,
        validator: Engine,
        ckpt_dir: str,
        output_dir: str,
        seed: int,
        device: str,
        register_model: str | None = None,
    ) -> None:
        self.data = data
        self.preprocessing = preprocessing
        self.calibrator = calibrator
        self.evaluation = evaluation
        self.tracker = tracker
        self.model_path = Path(ckpt_dir) / MODEL_NAME
        self.output_dir = Path(output_dir)
        self.seed = seed
        self.device = str(device)
        self.register_model = register_model
        self.config: dict[str, Any] = {}
        self.began = time.monotonic()
        self.history: list[dict[str, float]] = []
        self.validator = validator
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._remember)

    def _remember(self, engine: Engine) -> None:
        epoch = {f"train_{k}": v for k, v in engine.state.metrics.items()}
        epoch |= self.validator.state.metrics
        self.history.append({name: float(value) for name, value in epoch.items()})

    def begin(self) -> None:
        """Checks what can be checked beforehand and opens the tracking.

        Raises:
            InputError: when the run could not end well.
        """
        self.calibrator.check()
        check_registry(self.tracker, self.register_model)
        writable_folder(self.model_path.parent, "ckpt_dir")
        writable_folder(self.output_dir)
        self.config = executed_config()
        if self.config.get("tracking_uri"):
            self.config["tracking_uri"] = masked(str(self.config["tracking_uri"]))
        (self.output_dir / "config.json").write_text(json.dumps(self.config, indent=2, default=str))
        self.tracker.start(self._parameters(), {"phase": "training"})
        logger.info("Tracking: %s", self.tracker.where)

    def _parameters(self) -> dict[str, Any]:
        return plain_options(self.config) | {
            "device": self.device,
            "modalities": ",".join(self.data.cohort.modalities),
            "layout": self.data.cohort.layout,
            "data_fingerprint": self.data.fingerprint,
            **{f"version_{name}": value for name, value in installed_versions().items()},
        }

    def save_model(self) -> None:
        """Writes the calibrated model, whole or not at all."""
        with self.tracker.guard():
            reference = self.case_reference()
            self.evaluation.cases.evaluator.reference = reference
            save_model(self.model_path, self.calibrator.scorer, self.facts(reference))
            write_json(self.model_path.parent / "split.json", self.data.split.as_dict())
        logger.info("Model written: %s", self.model_path)

    def case_reference(self) -> CaseReference:
        """The scores of the held-out normal volumes; pictures are judged one by one."""
        calibrator = self.calibrator
        dataset: Any = calibrator.loader.dataset
        if not self.data.cohort.volumetric:
            return CaseReference((), calibrator.target_fpr)
        return CaseReference.of_slices(
            calibrator.slice_scores, dataset.case_numbers, calibrator.target_fpr
        )

    def facts(self, reference: CaseReference) -> dict[str, Any]:
        """Plain values that the model file carries beside the weights."""
        cohort = self.data.cohort
        return {
            "case_scores": list(reference.scores),
            "target_fpr": reference.target_fpr,
            "preprocessing": self.preprocessing.parameters,
            "modalities": list(cohort.modalities),
            "volumetric": cohort.volumetric,
            "layout": cohort.layout,
            "split": self.data.split.as_dict(),
            "seen": seen_content(self.data),
            "fingerprint": self.data.fingerprint,
            "notes": list(self.data.notes),
            "seed": int(self.seed),
            "versions": installed_versions(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }

    def finish(self) -> None:
        """Evaluates, completes the tracking and says where everything is."""
        with self.tracker.guard():
            save_curves(self.output_dir / "curves.png", self.history)
            metrics = self.evaluation.run()
            report = self.evaluation.report("Training", self._about(), self.history)
            log_evaluation(self.tracker, self.evaluation, metrics)
            for name in ("config.json", "curves.png"):
                if (self.output_dir / name).exists():
                    self.tracker.log_artifact(self.output_dir / name)
            self.tracker.log_artifact(self.model_path, "model")
            self.tracker.log_artifact(self.model_path.parent / "split.json", "model")
            if self.register_model:
                register_scorer(self.tracker, self.register_model, self.model_path)
        self.tracker.finish()
        tell_summary(
            metrics,
            {
                "report": str(report),
                "model": str(self.model_path),
                "results": str(self.output_dir),
                "tracking": self.tracker.where,
                "duration": duration(time.monotonic() - self.began),
            },
        )
        refuse_failures(self.evaluation.cases)

    def _about(self) -> dict[str, Any]:
        split = self.data.split
        return {
            "layout": self.data.cohort.layout,
            "modalities": ", ".join(self.data.cohort.modalities),
            "training cases": len(split.train),
            "calibration cases": len(split.calibration),
            "test cases": len(split.test),
            "data fingerprint": self.data.fingerprint,
            "seed": self.seed,
            "device": self.device,
            "duration": duration(time.monotonic() - self.began),
            "finished": time.strftime("%Y-%m-%d %H:%M"),
            **{f"version of {name}": value for name, value in installed_versions().items()},
        }


def plain_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options at the top of a config, without its objects and run lists."""
    return {
        key: value
        for key, value in config.items()
        if not isinstance(value, dict) and not key.startswith("_") and key not in _RUN_IDS
    }


_RUN_IDS = ("initialize", "training", "run", "evaluating", "finalize", "handlers")

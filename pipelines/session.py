"""What frames a run: its start, its model file, its evaluation and its summary."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from pipelines.calibration import Calibrator
from pipelines.data import Data
from pipelines.datasets import CaseLoader
from pipelines.evaluation_run import Evaluation
from pipelines.files import writable_folder, write_json
from pipelines.model_file import MODEL_NAME, save_model
from pipelines.options import executed_config
from pipelines.pictures import save_curves
from pipelines.progress import duration
from pipelines.tracking import Tracker

logger = logging.getLogger(__name__)

PACKAGES = ("aeflow", "torch", "monai", "numpy", "pytorch-ignite", "nibabel")
TOLD = (
    "image_auroc",
    "matched_auroc",
    "image_ap",
    "sensitivity",
    "specificity",
    "pixel_ap",
    "dice_at_threshold",
    "dice_oracle",
)


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


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
        writable_folder(self.model_path.parent, "ckpt_dir")
        writable_folder(self.output_dir)
        self.config = executed_config()
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
            save_model(self.model_path, self.calibrator.scorer, self.facts())
            write_json(self.model_path.parent / "split.json", self.data.split.as_dict())
        logger.info("Model written: %s", self.model_path)

    def facts(self) -> dict[str, Any]:
        """Plain values that the model file carries beside the weights."""
        cohort = self.data.cohort
        return {
            "preprocessing": self.preprocessing.parameters,
            "modalities": list(cohort.modalities),
            "volumetric": cohort.volumetric,
            "layout": cohort.layout,
            "split": self.data.split.as_dict(),
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
            log_evaluation(self.tracker, self.evaluation, metrics)
            for name in ("config.json", "curves.png"):
                if (self.output_dir / name).exists():
                    self.tracker.log_artifact(self.output_dir / name)
            self.tracker.log_artifact(self.model_path, "model")
            self.tracker.log_artifact(self.model_path.parent / "split.json", "model")
        self.tracker.finish()
        tell_summary(
            metrics,
            {
                "model": str(self.model_path),
                "results": str(self.output_dir),
                "tracking": self.tracker.where,
                "duration": duration(time.monotonic() - self.began),
            },
        )


class EvaluationSession:
    """Frames an evaluation of a finished model.

    Args:
        evaluation: of the cases.
        tracker: the run.
    """

    def __init__(self, evaluation: Evaluation, tracker: Tracker) -> None:
        self.evaluation = evaluation
        self.tracker = tracker
        self.began = time.monotonic()

    def run(self) -> None:
        """Evaluates, tracks and sums up."""
        writable_folder(self.evaluation.output_dir)
        parameters = plain_options(executed_config()) | self.evaluation.about
        self.tracker.start(parameters, {"phase": "evaluation"})
        with self.tracker.guard():
            metrics = self.evaluation.run()
            log_evaluation(self.tracker, self.evaluation, metrics)
        self.tracker.finish()
        tell_summary(
            metrics,
            {
                "results": str(self.evaluation.output_dir),
                "tracking": self.tracker.where,
                "duration": duration(time.monotonic() - self.began),
            },
        )


def plain_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options at the top of a config, without its objects and run lists."""
    return {
        key: value
        for key, value in config.items()
        if not isinstance(value, dict) and not key.startswith("_") and key not in _RUN_IDS
    }


_RUN_IDS = ("initialize", "training", "run", "evaluating", "finalize", "handlers")


def log_evaluation(tracker: Tracker, evaluation: Evaluation, metrics: Mapping[str, Any]) -> None:
    """Records an evaluation's figures and files."""
    figures = {
        name: content["value"]
        for name, content in metrics.items()
        if isinstance(content, dict) and isinstance(content.get("value"), (int, float))
    }
    for name, content in metrics["baselines"].items():
        if content["image_auroc"]["value"] is not None:
            figures[f"baseline_{name}_auroc"] = content["image_auroc"]["value"]
    tracker.log_metrics(figures)
    for path in evaluation.files():
        tracker.log_artifact(path)


def about_model(model: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """What an evaluation's results say of model and data."""
    return {
        "model_created": model["created"],
        "model_versions": model["versions"],
        "modalities": model["modalities"],
        "layout": data.cohort.layout,
        "data_fingerprint": data.fingerprint,
    }


def tell_summary(metrics: Mapping[str, Any], places: Mapping[str, str]) -> None:
    """Writes the last lines of a run: figures, baselines, and where everything is."""
    lines = ["", "=" * 72]
    for note in metrics["notes"]:
        lines.append(f"Note: {note}")
    counts = ", ".join(
        f"{int(metrics[name]['value'])} {what}"
        for name, what in (
            ("n_normal", "normal images"),
            ("n_anomalous", "anomalous images"),
            ("n_patients", "patients"),
        )
    )
    lines.append(f"Evaluated on {counts}")
    for name in TOLD:
        if name in metrics:
            lines.append(f"  {name:<22}{_figure(metrics[name])}")
    for name, content in metrics["baselines"].items():
        lines.append(
            f"  baseline {name:<13}{_figure(content['image_auroc'])} image_auroc, ours minus it "
            f"{_figure(content['difference'])}"
        )
    lines.append("-" * 72)
    lines += [f"  {name:<10} {place}" for name, place in places.items()]
    lines.append("=" * 72)
    logger.info("\n".join(lines))


def _figure(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "not defined here"
    interval = figure.get("ci95")
    told = f"{figure['value']:.3f}"
    return told if interval is None else f"{told} [{interval[0]:.3f}, {interval[1]:.3f}]"

"""What frames an evaluation of a finished model: tracking, report and summary."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pipelines.common import duration, executed_config, writable_folder
from pipelines.data import Data
from pipelines.runs.evaluation import Evaluation
from pipelines.runs.summary import log_evaluation, refuse_failures, tell_summary
from pipelines.runs.training import plain_options
from pipelines.tracking import Tracker


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
            report = self.evaluation.report("Evaluation", self._about())
            log_evaluation(self.tracker, self.evaluation, metrics)
        self.tracker.finish()
        tell_summary(
            metrics,
            {
                "report": str(report),
                "results": str(self.evaluation.output_dir),
                "tracking": self.tracker.where,
                "duration": duration(time.monotonic() - self.began),
            },
        )
        refuse_failures(self.evaluation.cases)

    def _about(self) -> dict[str, Any]:
        return {
            "cases": len(self.evaluation.cases.dataset),
            "device": str(self.evaluation.cases.evaluator.state.device),
            "duration": duration(time.monotonic() - self.began),
            "finished": time.strftime("%Y-%m-%d %H:%M"),
        }


def about_model(model: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """What an evaluation's results say of model and data."""
    return {
        "model_created": model["created"],
        "model_versions": model["versions"],
        "modalities": model["modalities"],
        "layout": data.cohort.layout,
        "data_fingerprint": data.fingerprint,
    }

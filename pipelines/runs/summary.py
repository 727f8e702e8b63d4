"""The last words of a run: what goes to the tracking, what is told, what was left out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.batch import CaseRun
from pipelines.runs.evaluation import Evaluation
from pipelines.tracking import Tracker
from transforms.errors import InputError

logger = logging.getLogger(__name__)

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


def refuse_failures(cases: CaseRun) -> None:
    """Ends a finished run with an error when cases had to be left out.

    Raises:
        InputError: so that the exit code says that not all is well.
    """
    failures, total = cases.failures, len(cases.dataset)
    if failures:
        first = failures[0]
        others = "" if len(failures) == total else "all others are finished, and "
        raise InputError(
            f"{len(failures)} of {total} cases could not be used; {others}"
            f"{cases.output_dir / 'failures.csv'} says why. The first, {first.case.name}: "
            f"{first.reason} Once mended, the same command scores only what is missing."
        )


def tell_summary(metrics: Mapping[str, Any], places: Mapping[str, str]) -> None:
    """Writes the last lines of a run: figures, baselines, and where everything is."""
    lines = []
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
    logger.info(framed(metrics["notes"], lines, places))


def framed(notes: Sequence[str], lines: Sequence[str], places: Mapping[str, Any]) -> str:
    """The last words of any run: its warnings, what it found, and where everything is."""
    noted = [f"Note: {note}" for note in notes]
    found = [f"  {name:<10} {place}" for name, place in places.items()]
    return "\n".join(["", "=" * 72, *noted, *lines, "-" * 72, *found, "=" * 72])


def _figure(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "not defined here"
    interval = figure.get("ci95")
    told = f"{figure['value']:.3f}"
    return told if interval is None else f"{told} [{interval[0]:.3f}, {interval[1]:.3f}]"

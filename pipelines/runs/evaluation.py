"""One evaluation: all cases scored, compared with their labels, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipelines.batch import CaseRun, Gathered
from pipelines.common import counted, plainly, write_json
from pipelines.data import Case, Data, SplitName, content_digest
from pipelines.metrics import summarize, told_figure, verdict
from pipelines.runs.session import Session
from pipelines.scoring import CaseEvaluator
from pipelines.tracking import Tracker

DESCRIPTION = "mlflow.note.content"
"""Tag of a run that MLflow's page shows as its description, in Markdown."""

TOLD = (
    "image_auroc",
    "matched_auroc",
    "image_ap",
    "sensitivity",
    "specificity",
    "realised_fpr",
    "target_fpr",
    "pixel_ap",
    "dice_at_threshold",
    "dice_oracle",
)


class Evaluation(Session):
    """Scores the test cases and compares the scores with the labels.

    Args:
        case_run: scores the cases.
        evaluator: the engine that it scores them with.
        tracker: the run's tracking.
        data: the data set.
        model: content of the model file, where it was there before.
    """

    title = "Evaluation"
    tracked: tuple[str, ...] = (
        "metrics.json",
        "scores.csv",
        "failures.csv",
        "examples.png",
        "scores.png",
        "roc.png",
        "calibration.png",
        "report.html",
    )

    def __init__(
        self,
        case_run: CaseRun,
        evaluator: CaseEvaluator,
        tracker: Tracker,
        data: Data,
        model: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(case_run, evaluator, data.cohort.volumetric, data.notes, tracker)
        self.data = data
        self.about = {} if model is None else about_model(model, data)

    def _parameters(self) -> dict[str, Any]:
        facts = {
            "device": str(self.evaluator.state.device),
            "data_fingerprint": self.data.fingerprint,
        }
        return super()._parameters() | self.about | self._kind_of_data() | facts

    def _tags(self) -> dict[str, str]:
        return super()._tags() | self._kind_of_data()

    def _kind_of_data(self) -> dict[str, str]:
        cohort = self.data.cohort
        return {"layout": cohort.layout, "modalities": ",".join(cohort.modalities)}

    def _track_data(self) -> None:
        self._track_cases("testing", self.data.split.test, ("test",))

    def _track_cases(self, context: str, cases: Sequence[Case], parts: Sequence[SplitName]) -> None:
        """Records cases, counted by part of the split; neither their names nor their folder."""
        if not cases:
            return
        split = self.data.split
        profile = {f"{part}_cases": len(split.cases(part)) for part in parts}
        profile |= {f"{part}_patients": len(split.patients(part)) for part in parts}
        name = "-".join((self.data.cohort.layout, *self.data.cohort.modalities))
        self.tracker.log_data(name, content_digest(cases), context, profile)

    def _measure(self, gathered: Gathered) -> dict[str, Any]:
        scorer = self.evaluator.scorer
        metrics = summarize(
            gathered.rows,
            gathered.pixels,
            gathered.baseline_pixels,
            threshold=float(scorer.calibration.threshold),
            pixel_threshold=float(scorer.calibration.pixel_threshold),
            volumetric=self.volumetric,
            events=gathered.events,
        ) | {
            "n_calibration": {"value": int(scorer.calibration.n_normal), "ci95": None},
            "n_calibration_patients": {"value": int(scorer.calibration.n_patients), "ci95": None},
            "n_failed": {"value": len(gathered.failures), "ci95": None},
            "target_fpr": {"value": float(scorer.calibration.target_fpr), "ci95": None},
            "about": self.about,
            "notes": self.notes,
            **self._further(),
        }
        judged = verdict(metrics, self._judged)
        self.verdict, metrics["verdict"] = judged, judged._asdict()
        write_json(self.output_dir / "metrics.json", metrics)
        return metrics

    def _further(self) -> dict[str, Any]:
        """What else ``metrics.json`` tells; nothing is judged by it."""
        return {}

    def _subject(self) -> dict[str, Any]:
        return {"cases": len(self.case_run.dataset)}

    def _origin(self) -> dict[str, Any]:
        return self.about

    def _places(self) -> dict[str, Any]:
        return {"results": self.output_dir, "tracking": self.tracker.where} | self.tracker.pages

    def _lines(self, gathered: Gathered, metrics: Mapping[str, Any]) -> list[str]:
        return told_figures(metrics, self._judged)

    @property
    def _judged(self) -> str:
        """What is judged."""
        return "window" if self.data.cohort.signals else "image"

    def _track(self, metrics: Mapping[str, Any]) -> None:
        self.tracker.log_metrics(tracked_figures(metrics))
        if self.verdict is not None:
            told = escape(str(self.verdict), quote=False)
            self.tracker.set_tags({DESCRIPTION: told, "verdict": self.verdict.kind})
        super()._track(metrics)


def about_model(model: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """What an evaluation's results say of model and data."""
    return {
        "model_created": model["created"],
        "model_versions": model["versions"],
        "modalities": model["modalities"],
        "layout": data.cohort.layout,
        "data_fingerprint": data.fingerprint,
    }


def about_data(data: Data) -> dict[str, Any]:
    """What a report says of a divided data set."""
    cohort, split = data.cohort, data.split
    return {
        "layout": cohort.layout,
        "modalities": ", ".join(cohort.modalities),
        "training cases": len(split.train),
        "calibration cases": len(split.calibration),
        "test cases": len(split.test),
        "data fingerprint": data.fingerprint,
    }


def tracked_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that are figures, in groups; ours and differences with their intervals' ends.

    A number over too few patients stays out: a run's metrics have no place for its note.

    Example:
        ``test/image_auroc``, ``test/image_auroc_low``, ``test/image_auroc_high``,
        ``test/volumes/image_auroc``, ``part/flow/image_ap``, ``baseline/area/difference``.
    """
    groups = {"test": metrics, "test/volumes": metrics.get("volumes", {})}
    for kind in ("part", "baseline"):
        for name, content in metrics.get(f"{kind}s", {}).items():
            groups[f"{kind}/{name.removesuffix('_score')}"] = content
    figures: dict[str, float] = {}
    for group, content in groups.items():
        for name, figure in content.items():
            if not isinstance(figure, dict) or figure.get("note"):
                continue
            if figure.get("value") is None:
                continue
            figures[f"{group}/{name}"] = figure["value"]
            if figure["ci95"] and (group.startswith("test") or name.endswith("difference")):
                low, high = figure["ci95"]
                figures |= {f"{group}/{name}_low": low, f"{group}/{name}_high": high}
    return figures


def told_figures(metrics: Mapping[str, Any], one: str = "image") -> list[str]:
    """Figures and baselines that are defined, line by line.

    Args:
        metrics: the content of ``metrics.json``.
        one: what is judged.
    """
    counts = ", ".join(
        counted(int(metrics[name]["value"]), what)
        for name, what in (
            ("n_normal", f"normal {one}"),
            ("n_anomalous", f"anomalous {one}"),
            ("n_patients", "patient"),
        )
    )
    lines = [f"Evaluated on {counts}"]
    lines += [
        f"  {name:<22}{told_figure(metrics[name])}"
        for name in TOLD
        if name in metrics and metrics[name]["value"] is not None
    ]
    return lines + [
        f"  {'baseline ' + plainly(name):<21} {told_figure(content['image_auroc'])} image_auroc, "
        f"ours minus it {told_figure(content['difference'])}"
        for name, content in metrics["baselines"].items()
        if content["image_auroc"]["value"] is not None
    ]

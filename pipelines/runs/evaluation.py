"""One evaluation: all cases scored, compared with their labels, and what is written of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.batch import CaseRun, Gathered, viewer_volumes
from pipelines.common import write_csv, write_json
from pipelines.metrics import summarize
from pipelines.report import ReportContent, write_report

FIRST_COLUMNS = (
    "case",
    "level",
    "slice",
    "label",
    "score",
    "flow_score",
    "recon_score",
    "head_score",
    "percentile",
    "flagged",
)


class Evaluation:
    """Runs over the test cases and writes what comes out.

    Args:
        cases: scores the cases.
        volumetric: whether cases are volumes.
        notes: warnings that the results must carry.
        about: what was evaluated on what, plain values.
    """

    def __init__(
        self,
        cases: CaseRun,
        volumetric: bool,
        notes: Sequence[str] = (),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.cases = cases
        self.output_dir = cases.output_dir
        self.volumetric = volumetric
        self.notes = list(notes)
        self.about = dict(about or {})
        self.gathered: Gathered | None = None
        self.metrics: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Scores all cases and writes the figures and the table.

        Returns:
            The content of ``metrics.json``.
        """
        gathered = self.gathered = self.cases.run()
        scorer = self.cases.evaluator.scorer
        self.metrics = summarize(
            gathered.rows,
            gathered.pixels,
            gathered.baseline_pixels,
            threshold=float(scorer.threshold),
            pixel_threshold=float(scorer.pixel_threshold),
            volumetric=self.volumetric,
        ) | {
            "n_calibration": {"value": int(scorer.n_normal), "ci95": None},
            "n_failed": {"value": len(gathered.failures), "ci95": None},
            "target_fpr": {"value": float(scorer.target_fpr), "ci95": None},
            "about": self.about,
            "notes": self.notes,
        }
        write_json(self.output_dir / "metrics.json", self.metrics)
        write_scores(self.output_dir / "scores.csv", gathered.rows)
        return self.metrics

    def report(
        self,
        title: str,
        about: Mapping[str, Any],
        history: Sequence[Mapping[str, float]] = (),
    ) -> Path:
        """Writes ``report.html`` of what `run` found.

        Args:
            title: of the page.
            about: what was run on what, plain values.
            history: losses per epoch, if there was a training.
        """
        if self.gathered is None:
            raise RuntimeError("Evaluation.report: call run first.")
        return report_on(
            self.cases,
            self.gathered,
            title,
            dict(about) | self.about,
            metrics=self.metrics,
            notes=self.notes,
            history=history,
            volumetric=self.volumetric,
        )

    def files(self) -> list[Path]:
        """What was written, but for the maps."""
        names = (
            "metrics.json",
            "scores.csv",
            "failures.csv",
            "examples.png",
            "scores.png",
            "roc.png",
            "calibration.png",
            "report.html",
        )
        return [self.output_dir / n for n in names if (self.output_dir / n).exists()]


def report_on(
    cases: CaseRun,
    gathered: Gathered,
    title: str,
    about: Mapping[str, Any],
    *,
    metrics: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    history: Sequence[Mapping[str, float]] = (),
    volumetric: bool = False,
) -> Path:
    """Writes the report of a run over cases."""
    scorer = cases.evaluator.scorer
    quantiles: NDArray[np.float64] = scorer.quantiles.double().cpu().numpy()
    content = ReportContent(
        title=title,
        rows=gathered.rows,
        metrics=metrics,
        threshold=float(scorer.threshold),
        target_fpr=float(scorer.target_fpr),
        n_normal=int(scorer.n_normal),
        quantiles=quantiles,
        history=history,
        examples=gathered.examples,
        volumes=viewer_volumes(cases, gathered) if volumetric else (),
        failures=[{"case": f.case.name, "reason": f.reason} for f in gathered.failures],
        about=about,
        notes=notes,
        volumetric=volumetric,
    )
    return write_report(cases.output_dir, content)


def write_scores(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``scores.csv``: the known columns first, then the trivial scores; no patients."""
    present = list(dict.fromkeys(name for row in rows for name in row))
    columns = [name for name in FIRST_COLUMNS if name in present]
    further = [name for name in present if name not in columns and name != "patient"]
    write_csv(path, rows, columns + further)

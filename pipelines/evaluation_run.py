"""One evaluation: the engine's run, and the files that come out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.engines import SupervisedEvaluator

from pipelines.evaluation import ResultCollector
from pipelines.files import writable_folder, write_csv, write_json
from pipelines.pictures import save_histogram, save_panels
from pipelines.results import summarize

FIRST_COLUMNS = (
    "case",
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
    """Runs an evaluator over the test cases and writes what comes out.

    Args:
        evaluator: scores lists of cases; see `pipelines.evaluation.CaseEvaluator`.
        collector: attached to the evaluator.
        output_dir: folder of ``metrics.json``, ``scores.csv`` and the pictures.
        volumetric: whether cases are volumes.
        notes: warnings that the results must carry.
        about: what was evaluated on what, plain values.
    """

    def __init__(
        self,
        evaluator: SupervisedEvaluator,
        collector: ResultCollector,
        output_dir: str,
        volumetric: bool,
        notes: Sequence[str] = (),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.collector = collector
        self.output_dir = Path(output_dir)
        self.volumetric = volumetric
        self.notes = list(notes)
        self.about = dict(about or {})

    def run(self) -> dict[str, Any]:
        """Scores all cases and writes the files.

        Returns:
            The content of ``metrics.json``.
        """
        writable_folder(self.output_dir)
        self.evaluator.run()
        scorer: Any = self.evaluator.network
        metrics = summarize(
            self.collector.rows,
            self.collector.pixels,
            self.collector.baseline_pixels,
            threshold=float(scorer.threshold),
            pixel_threshold=float(scorer.pixel_threshold),
            volumetric=self.volumetric,
        )
        metrics |= {
            "n_calibration": {"value": int(scorer.n_normal), "ci95": None},
            "target_fpr": {"value": float(scorer.target_fpr), "ci95": None},
            "about": self.about,
            "notes": self.notes,
        }
        write_json(self.output_dir / "metrics.json", metrics)
        self._write_scores()
        self._draw(float(scorer.threshold))
        return metrics

    def _write_scores(self) -> None:
        rows = self.collector.rows
        columns = [name for name in FIRST_COLUMNS if rows and name in rows[0]]
        further = [n for n in (rows[0] if rows else ()) if n not in columns and n != "patient"]
        write_csv(self.output_dir / "scores.csv", rows, columns + further)

    def _draw(self, threshold: float) -> None:
        note = " ".join(n for n in self.notes if "phantom" in n)
        save_panels(self.output_dir / "examples.png", self.collector.examples.examples(), note)
        by_label: dict[Any, list[float]] = {0: [], 1: []}
        for row in self.collector.rows:
            if row["label"] in by_label:
                by_label[row["label"]].append(row["score"])
        save_histogram(self.output_dir / "scores.png", by_label[0], by_label[1], threshold)

    def files(self) -> list[Path]:
        """What was written."""
        names = ("metrics.json", "scores.csv", "examples.png", "scores.png")
        return [self.output_dir / n for n in names if (self.output_dir / n).exists()]

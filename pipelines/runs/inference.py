"""Inference: new images scored, with a map, a panel and a report; nothing is compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.batch import CaseRun, Gathered
from pipelines.common import counted, write_csv
from pipelines.data import InputFiles, reads_signals, seen_by, shortened
from pipelines.metrics import ScoreRow
from pipelines.runs.session import Session
from pipelines.scoring import CaseEvaluator

LEFT_OUT = "left_out.csv"
"""What lies beside the images and is none, with the reason."""

MOST_TOLD = 20
"""Cases that the summary names one by one."""


class Inference(Session):
    """Scores new images and writes what a reader needs.

    Args:
        case_run: scores the images.
        evaluator: the engine that it scores them with.
        model: content of the model file.
        inputs: the images, and what lies beside them.
    """

    title = "Inference"

    def __init__(
        self,
        case_run: CaseRun,
        evaluator: CaseEvaluator,
        model: Mapping[str, Any],
        inputs: InputFiles,
    ) -> None:
        super().__init__(case_run, evaluator, bool(model["volumetric"]), model["notes"])
        self.model = model
        self.inputs = inputs
        self.what = "signal" if reads_signals(model) else "image"
        self.left_out = inputs.left_out

    def _open(self) -> None:
        """Lists beforehand what is not used, and says what the model has seen."""
        super()._open()
        seen = seen_by(self.model, self.inputs.cases)
        if seen:
            self.notes.append(
                f"{len(seen)} of {len(self.inputs.cases)} {self.what}s trained or calibrated the "
                f"model, which makes their scores too low: {shortened(case.name for case in seen)}."
            )
        path = self.output_dir / LEFT_OUT
        path.unlink(missing_ok=True)
        if self.left_out:
            rows = [{"file": one.name, "reason": one.reason} for one in self.left_out]
            write_csv(path, rows, ("file", "reason"))

    def _subject(self) -> dict[str, Any]:
        return {
            "images": len(self.case_run.dataset),
            "modalities": ", ".join(self.model["modalities"]),
            "model of": self.model["created"],
        }

    def _origin(self) -> dict[str, Any]:
        return {f"model's version of {k}": v for k, v in self.model["versions"].items()}

    def _places(self) -> dict[str, Any]:
        names = {"scores": "scores.csv", "maps": "maps", "panels": "panels"}
        return {what: self.output_dir / name for what, name in names.items()}

    def _lines(self, gathered: Gathered, metrics: Mapping[str, Any]) -> list[str]:
        whole = [row for row in gathered.rows if not row.is_part]
        whole.sort(key=lambda row: -row.score)
        lines = [f"Scored {counted(len(whole), self.what)}, the most anomalous first:"]
        lines += [f"  {told(row)}" for row in whole[:MOST_TOLD]]
        if len(whole) > MOST_TOLD:
            lines.append(f"  and {len(whole) - MOST_TOLD} more in scores.csv")
        if gathered.failures:
            lines.append(f"Left out: {len(gathered.failures)}, see failures.csv")
        if self.left_out:
            lines.append(f"Not used: {counted(len(self.left_out), 'other file')}, see {LEFT_OUT}")
        return lines


def told(row: ScoreRow) -> str:
    """One image in a line: name, score, percentile among the held-out normals, decision."""
    line = f"{row.case:<32} score {row.score:6.2f}"
    if row.score_std is not None:
        line += f" +- {row.score_std:.2f}"
    if row.percentile is not None:
        line += f"  percentile {row.percentile:5.1f}"
    line += {True: "  FLAGGED", False: "", None: "  (no threshold)"}[row.flagged]
    return line + (f"  OUT OF SCOPE: {row.out_of_scope}" if row.out_of_scope else "")

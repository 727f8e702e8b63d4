"""Inference: new images scored, with a map, a panel and a report; nothing is compared."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.batch import CaseRun, Gathered
from pipelines.common import duration, writable_folder
from pipelines.runs.evaluation import report_on, write_scores
from pipelines.runs.summary import framed, refuse_failures

logger = logging.getLogger(__name__)

MOST_TOLD = 20
"""Cases that the summary names one by one."""


class Inference:
    """Scores new images and writes what a reader needs.

    Args:
        cases: scores the images.
        model: content of the model file.
    """

    def __init__(self, cases: CaseRun, model: Mapping[str, Any]) -> None:
        self.cases = cases
        self.model = model
        self.began = time.monotonic()

    def run(self) -> None:
        """Scores, writes ``scores.csv``, maps, panels and ``report.html``, and sums up.

        Raises:
            InputError: at the end, when images had to be left out.
        """
        writable_folder(self.cases.output_dir)
        gathered = self.cases.run()
        write_scores(self.cases.output_dir / "scores.csv", gathered.rows)
        report = report_on(
            self.cases,
            gathered,
            "Inference",
            self._about(),
            notes=self.model["notes"],
            volumetric=bool(self.model["volumetric"]),
        )
        self._tell(gathered, report)
        refuse_failures(self.cases)

    def _about(self) -> dict[str, Any]:
        model = self.model
        return {
            "images": len(self.cases.dataset),
            "modalities": ", ".join(model["modalities"]),
            "model of": model["created"],
            "device": str(self.cases.evaluator.state.device),
            "duration": duration(time.monotonic() - self.began),
            "finished": time.strftime("%Y-%m-%d %H:%M"),
            **{f"model's version of {k}": v for k, v in model["versions"].items()},
        }

    def _tell(self, gathered: Gathered, report: Path) -> None:
        whole = [row for row in gathered.rows if row["level"] != "slice"]
        whole.sort(key=lambda row: -row["score"])
        lines = [f"Scored {len(whole)} images, the most anomalous first:"]
        lines += [f"  {told(row)}" for row in whole[:MOST_TOLD]]
        if len(whole) > MOST_TOLD:
            lines.append(f"  and {len(whole) - MOST_TOLD} more in scores.csv")
        if gathered.failures:
            lines.append(f"Left out: {len(gathered.failures)}, see failures.csv")
        places = {
            "report": report,
            "scores": self.cases.output_dir / "scores.csv",
            "maps": self.cases.output_dir / "maps",
            "panels": self.cases.output_dir / "panels",
            "duration": duration(time.monotonic() - self.began),
        }
        logger.info(framed(self.model["notes"], lines, places))


def told(row: Mapping[str, Any]) -> str:
    """One image in a line: name, score, percentile among the held-out normals, decision."""
    line = f"{row['case']:<32} score {row['score']:6.2f}"
    if row["percentile"] != "":
        line += f"  percentile {row['percentile']:5.1f}"
    return line + {1: "  FLAGGED", 0: "", "": "  (no threshold)"}[row["flagged"]]

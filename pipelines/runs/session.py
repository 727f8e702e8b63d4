"""What every run shares: folder, clock, tracking, results, report and last words."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.batch import CaseRun, Gathered, viewer_volumes
from pipelines.common import (
    FolderLock,
    StopSignals,
    duration,
    executed_options,
    installed_version,
    is_main,
    leave,
    main_first,
    write_csv,
)
from pipelines.metrics import ScoreRow, Verdict, batch_notes
from pipelines.outputs import Example
from pipelines.report import ReportContent, write_report
from pipelines.scoring import CaseEvaluator
from pipelines.tracking import Tracker
from transforms.errors import InputError

logger = logging.getLogger(__name__)

WRITTEN_FOLDERS = ("cases", "maps", "panels")
"""Subfolders of the output folder that a run writes into."""


class Session:
    """The frame of a run over cases, which training, evaluation and inference fill.

    Args:
        case_run: scores the cases.
        evaluator: the engine that it scores them with.
        volumetric: whether cases are volumes.
        notes: warnings that the results must carry.
        tracker: the run's tracking; None for none.
    """

    title = "Session"
    tracked: tuple[str, ...] = ()
    """Files of the output folder that the tracking gets, as far as they were written."""

    def __init__(
        self,
        case_run: CaseRun,
        evaluator: CaseEvaluator,
        volumetric: bool,
        notes: Sequence[str] = (),
        tracker: Tracker | None = None,
    ) -> None:
        self.case_run = case_run
        self.evaluator = evaluator
        self.volumetric = volumetric
        self.notes = list(notes)
        self.output_dir = case_run.output_dir
        self.tracker = tracker or Tracker(str(self.output_dir), "none")
        self.history: list[dict[str, float]] = []
        self.stops = StopSignals()
        self.verdict: Verdict | None = None
        self.began = time.monotonic()
        self.locks = [FolderLock(self.output_dir, "output_dir", WRITTEN_FOLDERS)]

    def run(self) -> None:
        """The whole run, if nothing comes before the scoring."""
        self.begin()
        self.finish()

    def begin(self) -> None:
        """Opens the run; the others of several processes follow the first."""
        self.stops.listen(self.tracker.stop)
        with main_first():
            if is_main():
                self._open()
            else:
                self._follow()

    def _open(self) -> None:
        """Takes the folders and opens the tracking."""
        for lock in self.locks:
            lock.acquire()
        self._prepare()
        self.tracker.start(self._parameters(), self._tags())
        if self.tracker.active:
            self._track_data()

    def finish(self) -> None:
        """Scores the cases, writes and tracks what comes out, and says where everything is.

        Several processes share the cases; the first one does the rest.

        Raises:
            InputError: at the end, when cases had to be left out: the exit code is to say that
                not all is well.
        """
        with self.tracker.guard():
            gathered = self.case_run.run()
            if not leave():
                return
            rate = float(self.evaluator.scorer.calibration.target_fpr)
            self.notes += batch_notes(gathered.rows, rate)
            metrics = self._measure(gathered)
            write_scores(self.output_dir / "scores.csv", gathered.rows)
            report = write_report(self.output_dir, self._content(gathered, metrics))
            self._track(metrics)
        self.tracker.finish()
        self.stops.ignore()
        self._clear()
        for lock in self.locks:
            lock.release()
        places = {"report": report} | self._places() | {"duration": self._duration()}
        judged = "" if self.verdict is None else str(self.verdict)
        logger.info(framed(self.notes, self._lines(gathered, metrics), places, judged))
        self._refuse(gathered)

    def _follow(self) -> None:
        """What another process than the first needs of what that one opened."""

    def _prepare(self) -> None:
        """What is written before the tracking is opened."""

    def _clear(self) -> None:
        """Removes what only an unfinished run needs."""

    def _parameters(self) -> dict[str, Any]:
        """What the tracking gets beforehand."""
        return executed_options()

    def _tags(self) -> dict[str, str]:
        """What runs are found by in the tracking."""
        return {"kind": self.title.lower(), "version": str(installed_version("aeflow"))}

    def _track_data(self) -> None:
        """Records what the run is on."""

    def _measure(self, gathered: Gathered) -> dict[str, Any]:
        """Compares with the labels, where there are any."""
        return {}

    def _subject(self) -> dict[str, Any]:
        """What the run is on, for the report."""
        return {}

    def _origin(self) -> dict[str, Any]:
        """What the run stands on, for the report."""
        return {}

    def _regions(self) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Some training images, each with the region of its synthetic anomalies."""
        return []

    def _stability(self) -> list[dict[str, Any]]:
        """What mild changes do to normal images, for the report."""
        return []

    def _held_out(self, metrics: Mapping[str, Any]) -> tuple[Sequence[float], list[Example]]:
        """Scores and panels of the calibration's normal images, where nothing else tells more."""
        return (), []

    def _places(self) -> dict[str, Any]:
        """Where things are, besides the report."""
        return {}

    def _lines(self, gathered: Gathered, metrics: Mapping[str, Any]) -> list[str]:
        """What was found, in words."""
        return []

    def _track(self, metrics: Mapping[str, Any]) -> None:
        """Records what came out."""
        for name in self.tracked:
            if (self.output_dir / name).exists():
                self.tracker.log_artifact(self.output_dir / name)

    def _duration(self) -> str:
        return duration(time.monotonic() - self.began)

    def _content(self, gathered: Gathered, metrics: Mapping[str, Any]) -> ReportContent:
        scorer = self.evaluator.scorer
        quantiles: NDArray[np.float64] = scorer.calibration.quantiles.double().cpu().numpy()
        held_out, highest = self._held_out(metrics)
        about = self._subject() | {
            "device": str(self.evaluator.state.device),
            "duration": self._duration(),
            "finished": time.strftime("%Y-%m-%d %H:%M"),
        }
        return ReportContent(
            title=self.title,
            rows=gathered.rows,
            metrics=metrics or None,
            verdict=self.verdict,
            threshold=float(scorer.calibration.threshold),
            target_fpr=float(scorer.calibration.target_fpr),
            n_normal=int(scorer.calibration.n_normal),
            n_patients=int(scorer.calibration.n_patients),
            quantiles=quantiles,
            history=self.history,
            regions=self._regions(),
            stability=self._stability(),
            held_out=held_out,
            examples=[*gathered.examples, *highest],
            volumes=viewer_volumes(self.case_run, gathered) if self.volumetric else (),
            thumbnails=gathered.thumbnails,
            panels=self.case_run.save_panels,
            failures=[{"case": f.case.name, "reason": f.reason} for f in gathered.failures],
            about=about | self._origin(),
            notes=self.notes,
            volumetric=self.volumetric,
            pixel_threshold=float(scorer.calibration.pixel_threshold),
        )

    def _refuse(self, gathered: Gathered) -> None:
        failures, total = gathered.failures, len(self.case_run.dataset)
        if failures:
            first = failures[0]
            others = "" if len(failures) == total else "all others are finished, and "
            raise InputError(
                f"{len(failures)} of {total} cases could not be used; {others}"
                f"{self.output_dir / 'failures.csv'} says why. The first, {first.case.name}: "
                f"{first.reason} Once mended, the same command scores only what is missing."
            )


def write_scores(path: Path, rows: Sequence[ScoreRow]) -> None:
    """Writes ``scores.csv``; no patients."""
    cells = [row.cells() for row in rows]
    write_csv(path, cells, list(dict.fromkeys(name for row in cells for name in row)))


def framed(
    notes: Sequence[str], lines: Sequence[str], places: Mapping[str, Any], judged: str = ""
) -> str:
    """The last words of any run: verdict, warnings, what it found, and where everything is."""
    noted = [f"Note: {note}" for note in notes]
    found = [f"  {name:<10} {place}" for name, place in places.items()]
    return "\n".join(
        ["", "=" * 72, *filter(None, [judged]), *noted, *lines, "-" * 72, *found, "=" * 72]
    )

"""Many cases, unattended: scored once each, written as they come, gathered at the end."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from pipelines.batch.results import CaseResult, case_result, load_result, stored_stamp
from pipelines.batch.writer import CaseWriter, Further
from pipelines.common import on_failure, writable_folder, write_csv
from pipelines.data import Case, CaseDataset, FailedCase
from pipelines.metrics import PixelHistogram, default_edges
from pipelines.outputs import MAP_SUFFIXES, Example, ExampleKeeper, candidates
from pipelines.scoring import MODEL_NAME, CaseEvaluator, ScoredCase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gathered:
    """What came out of all cases.

    Attributes:
        rows: rows of ``scores.csv`` in the order of the cases.
        pixels: pixels of the anomaly maps.
        baseline_pixels: pixels of the intensity maps.
        examples: the most telling slices.
        failures: the cases that could not be used.
    """

    rows: list[dict[str, Any]]
    pixels: PixelHistogram
    baseline_pixels: PixelHistogram
    examples: list[Example]
    failures: list[FailedCase]


class CaseStore:
    """The results of finished cases in an output folder.

    Args:
        folder: one file per case.
        model: the model file; results of another one do not count.
        settings: what else the written files depend on.
    """

    def __init__(self, folder: Path, model: Path, settings: Sequence[Any] = ()) -> None:
        self.folder = folder
        with model.open("rb") as file:
            self.model = hashlib.file_digest(file, "sha256").hexdigest()
        self.settings = tuple(settings)

    def path(self, case: Case) -> Path:
        """The file of a case."""
        return self.folder / f"{case.name}.npz"

    def stamp(self, case: Case) -> str:
        """Says of what a result is: model, settings, and the files by size and time."""
        files = [file for image in (*case.images, case.mask) if image for file in _files(image)]
        states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        known = (case.patient, case.label, case.channels, case.series_uid)
        told = (self.model, self.settings, known, states)
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def done(self, case: Case) -> bool:
        """Whether the case was scored by this model as its files are now."""
        try:
            return stored_stamp(self.path(case)) == self.stamp(case)
        except OSError:  # a file is gone; reading the case will say so
            return False


def _files(image: Path) -> list[Path]:
    return sorted(f for f in image.iterdir() if f.is_file()) if image.is_dir() else [image]


class CaseRun:
    """Scores all cases of a data set, but for those that an earlier run has finished.

    Args:
        evaluator: scores lists of cases.
        dataset: what the evaluator's loader reads.
        output_dir: the folder of everything.
        ckpt_dir: the folder of the model file.
        save_maps: whether to write the maps.
        save_panels: whether to draw a panel of each case.
        further: called with each case and the folder of its maps.
    """

    def __init__(
        self,
        evaluator: CaseEvaluator,
        dataset: CaseDataset,
        output_dir: str,
        ckpt_dir: str,
        save_maps: bool = True,
        save_panels: bool = False,
        further: Sequence[Further] = (),
    ) -> None:
        self.evaluator = evaluator
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.model_path = Path(ckpt_dir) / MODEL_NAME
        self.save_maps = bool(save_maps)
        self.save_panels = bool(save_panels)
        self.further = tuple(further)
        self.failures: list[FailedCase] = []
        self.keeper = ExampleKeeper()
        self.writer: CaseWriter | None = None
        self.store: CaseStore | None = None
        evaluator.add_event_handler(Events.STARTED, self._open)
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._take)
        evaluator.add_event_handler(Events.COMPLETED, self._close)
        on_failure(evaluator, self._close)

    def run(self) -> Gathered:
        """Scores the cases and gathers all results."""
        writable_folder(self.output_dir)
        settings = (self.save_maps, self.save_panels, len(self.further), _facts(self.dataset))
        self.store = CaseStore(self.output_dir / "cases", self.model_path, settings)
        cases = self.dataset.data
        pending = tuple(case for case in cases if not self._finished(case, self.store))
        if len(pending) < len(cases):
            done = len(cases) - len(pending)
            logger.info("%d of %d cases are finished already.", done, len(cases))
        self.failures = []
        if pending:
            self._score(pending)
        return self._gather(cases)

    def _finished(self, case: Case, store: CaseStore) -> bool:
        names = [f"{case.name}_anomaly{suffix}" for suffix in MAP_SUFFIXES]
        written = any((self.output_dir / "maps" / name).exists() for name in names)
        return store.done(case) and (written or not self.save_maps)

    def _score(self, pending: tuple[Case, ...]) -> None:
        everything = self.dataset.data
        self.dataset.data = pending
        try:
            self.evaluator.state.epoch_length = len(self.evaluator.data_loader)  # type: ignore[arg-type]
            self.evaluator.run()
        finally:
            self.dataset.data = everything

    def _open(self, engine: Engine) -> None:
        # Only now is the calibration over that fixes the threshold.
        self.keeper = ExampleKeeper()
        self.writer = CaseWriter(
            self.output_dir, self._pixel_threshold, self.save_maps, self.save_panels, self.further
        )

    @property
    def _pixel_threshold(self) -> float:
        return float(self.evaluator.scorer.pixel_threshold)

    def _take(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for failed in output["failures"]:
            logger.warning("%s: left out. %s", failed.case.name, failed.reason)
            self.failures.append(failed)
        for scored in output["cases"]:
            self._submit(scored)

    def _submit(self, scored: ScoredCase) -> None:
        if self.writer is None or self.store is None:
            raise RuntimeError("CaseRun: its run starts the evaluator; do not run it alone.")
        result = case_result(scored, self._pixel_threshold)
        result.examples = [one for one in candidates(scored) if self.keeper.offer(one)]
        case = scored.sample.case
        self.writer.submit(scored, result, self.store.path(case), self.store.stamp(case))

    def _close(self, *_: Any) -> None:
        if self.writer is not None:
            writer, self.writer = self.writer, None
            writer.close()

    def _gather(self, cases: Sequence[Case]) -> Gathered:
        pixels = PixelHistogram(default_edges(threshold=self._pixel_threshold))
        baseline_pixels, keeper = PixelHistogram(), ExampleKeeper()
        rows: list[dict[str, Any]] = []
        for result in self._results(cases):
            rows.extend(result.rows)
            pixels.merge(result.pixels)
            baseline_pixels.merge(result.baseline_pixels)
            for example in result.examples:
                keeper.offer(example)
        self._write_failures()
        return Gathered(rows, pixels, baseline_pixels, keeper.examples(), self.failures)

    def _results(self, cases: Sequence[Case]) -> Iterator[CaseResult]:
        """The results of all cases but the failed ones, read one by one."""
        if self.store is None:
            return
        failed = {one.case.name for one in self.failures}
        for case in cases:
            if case.name not in failed:
                yield load_result(self.store.path(case))

    def _write_failures(self) -> None:
        rows = [{"case": failed.case.name, "reason": failed.reason} for failed in self.failures]
        if rows:
            write_csv(self.output_dir / "failures.csv", rows, ("case", "reason"))
        else:
            (self.output_dir / "failures.csv").unlink(missing_ok=True)


def _facts(dataset: CaseDataset) -> Any:
    return getattr(dataset.read, "parameters", None)

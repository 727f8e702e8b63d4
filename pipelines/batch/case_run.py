"""Many cases, unattended: scored once each, written as they come, gathered at the end."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.data.thread_buffer import ThreadDataLoader

from pipelines.batch.results import is_whole, load_result
from pipelines.batch.writer import CaseWriter, Further
from pipelines.common import (
    check_values,
    is_main,
    of_all,
    processes,
    rank,
    require_part,
    to_main,
    writable_folder,
    write_csv,
)
from pipelines.data import Case, CaseDataset, FailedCase, case_loader
from pipelines.metrics import EventCounts, PixelHistogram, ScoreRow, default_edges
from pipelines.outputs import Example, ExampleKeeper, PatchTable, candidates
from pipelines.scoring import MODEL_NAME, CaseEvaluator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gathered:
    """What came out of all cases.

    Attributes:
        rows: rows of ``scores.csv`` in the order of the cases.
        pixels: pixels of the anomaly maps.
        baseline_pixels: pixels of the maps of the trivial scores, by name.
        examples: the most telling slices.
        thumbnails: a JPEG of each case, by its name.
        failures: the cases that could not be used.
        events: of signals, the counts of the events of each, by whose trace.
    """

    rows: list[ScoreRow]
    pixels: PixelHistogram
    baseline_pixels: dict[str, PixelHistogram]
    examples: list[Example]
    thumbnails: dict[str, bytes]
    failures: list[FailedCase]
    events: dict[str, list[list[EventCounts]]] = field(default_factory=dict)


def _joined(parts: Sequence[Gathered]) -> Gathered:
    """What several processes have gathered, in their order; all know the same failures."""
    whole, keeper = parts[0], ExampleKeeper()
    for part in parts:
        for example in part.examples:
            keeper.offer(example)
    for part in parts[1:]:
        whole.rows.extend(part.rows)
        whole.pixels.merge(part.pixels)
        for name, trivial in part.baseline_pixels.items():
            whole.baseline_pixels.setdefault(name, PixelHistogram()).merge(trivial)
        whole.thumbnails.update(part.thumbnails)
        for name, counts in part.events.items():
            whole.events.setdefault(name, []).extend(counts)
    return replace(whole, examples=keeper.examples())


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
        """Whether the case was scored by this model as its files are now, and all is there."""
        try:
            return is_whole(self.path(case), self.stamp(case))
        except OSError:  # a file is gone; reading the case will say so
            return False


def _files(image: Path) -> list[Path]:
    return sorted(f for f in image.iterdir() if f.is_file()) if image.is_dir() else [image]


class CaseRun:
    """Scores all cases of a data set, but for those that an earlier run has finished.

    Args:
        evaluator: scores lists of cases.
        dataloader: reads all cases; those still to do are read likewise.
        output_dir: the folder of everything.
        ckpt_dir: the folder of the model file.
        save_maps: whether to write the maps.
        save_panels: whether to draw a panel of each case.
        further: called with each case and the folder of its maps.
    """

    def __init__(
        self,
        evaluator: CaseEvaluator,
        dataloader: ThreadDataLoader,
        output_dir: str,
        ckpt_dir: str,
        save_maps: bool = True,
        save_panels: bool = False,
        further: tuple[Further, ...] = (),
    ) -> None:
        require_part("evaluator", evaluator, CaseEvaluator)
        require_part("dataloader", dataloader, ThreadDataLoader)
        require_part("further", further, tuple)
        check_values({"output_dir": output_dir, "ckpt_dir": ckpt_dir})
        dataset: Any = dataloader.dataset
        self.evaluator = evaluator
        self.scorer = evaluator.scorer
        self.dataloader = dataloader
        self.dataset: CaseDataset = dataset
        self.output_dir = Path(output_dir)
        self.model_path = Path(ckpt_dir) / MODEL_NAME
        self.save_maps = bool(save_maps)
        self.save_panels = bool(save_panels)
        self.further = tuple(further)
        if self.save_maps and getattr(dataset.read, "patch_size", None):
            self.further += (PatchTable(dataset.read),)

    def run(self) -> Gathered:
        """Scores the cases and gathers all results; a scorer must be calibrated by then.

        Several processes score some of the cases each, and gather some of what all have written;
        the first one has all of it.
        """
        writable_folder(self.output_dir)
        parameters = getattr(self.dataset.read, "parameters", None)
        rate = float(self.scorer.calibration.target_fpr)
        settings = (self.save_maps, self.save_panels, len(self.further), rate, parameters)
        store = CaseStore(self.output_dir / "cases", self.model_path, settings)
        cases = self.dataset.data
        first, end = (len(cases) * one // processes() for one in (rank(), rank() + 1))
        left = of_all([n for n in range(first, end) if not store.done(cases[n])])
        if len(left) < len(cases):
            done = len(cases) - len(left)
            logger.info("%d of %d cases are finished already.", done, len(cases))
        size = self.dataloader.batch_size or 1
        own = tuple(cases[n] for i, n in enumerate(left) if i // size % processes() == rank())
        failures = of_all(self._score(own, store) if own else [])
        failures.sort(key=lambda failed: cases.index(failed.case))
        if is_main():
            self._write_failures(failures)
        parts = to_main([self._gather(cases[first:end], store, failures)])
        return parts[0] if len(parts) == 1 else _joined(parts)

    @property
    def _pixel_threshold(self) -> float:
        return float(self.scorer.calibration.pixel_threshold)

    def _score(self, cases: tuple[Case, ...], store: CaseStore) -> list[FailedCase]:
        """Scores cases and writes what comes out; gives those that cannot be used."""
        failures: list[FailedCase] = []
        keeper = ExampleKeeper()
        whole = self.dataloader
        dataset = CaseDataset(cases, self.dataset.read)
        loader = case_loader(dataset, whole.batch_size or 1, whole.num_workers)
        writer = CaseWriter(
            self.output_dir, self._pixel_threshold, self.save_maps, self.save_panels, self.further,
            loader.batch_size or 1,
        )  # fmt: skip

        def take(engine: Engine) -> None:
            output: Any = engine.state.output
            for failed in output["failures"]:
                logger.warning("%s: left out. %s", failed.case.name, failed.reason)
                failures.append(failed)
            for scored in output["cases"]:
                case, found = scored.sample.case, candidates(scored)
                kept = [one for one in found if keeper.offer(one)]
                writer.submit(scored, found[:1], kept, store.path(case), store.stamp(case))

        with closing(writer), self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, take):
            self.evaluator.score(loader)
        return failures

    def _gather(
        self, cases: Sequence[Case], store: CaseStore, failures: list[FailedCase]
    ) -> Gathered:
        pixels = PixelHistogram(default_edges(self._pixel_threshold))
        baseline_pixels: dict[str, PixelHistogram] = defaultdict(PixelHistogram)
        keeper = ExampleKeeper()
        rows: list[ScoreRow] = []
        thumbnails: dict[str, bytes] = {}
        events: dict[str, list[list[EventCounts]]] = defaultdict(list)
        failed = {one.case.name for one in failures}
        for case in cases:
            if case.name in failed:
                continue
            result = load_result(store.path(case))
            rows.extend(result.rows)
            thumbnails[case.name] = result.thumbnail
            pixels.merge(result.pixels)
            for name, trivial in result.baseline_pixels.items():
                baseline_pixels[name].merge(trivial)
            for example in result.examples:
                keeper.offer(example)
            for name, counts in result.events.items():
                events[name].append(counts)
        examples = keeper.examples()
        return Gathered(
            rows, pixels, dict(baseline_pixels), examples, thumbnails, failures, dict(events)
        )

    def _write_failures(self, failures: Sequence[FailedCase]) -> None:
        path = self.output_dir / "failures.csv"
        rows = [{"case": failed.case.name, "reason": failed.reason} for failed in failures]
        if rows:
            write_csv(path, rows, ("case", "reason"))
        else:
            path.unlink(missing_ok=True)

"""Sums up and writes what comes out of cases while the next ones are scored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from pipelines.batch.results import case_result, save_result
from pipelines.common import spare_threads, worker_threads
from pipelines.outputs import Example, save_panels, write_maps
from pipelines.scoring import ScoredCase

logger = logging.getLogger(__name__)

AHEAD = 1 + spare_threads()
"""Cases that may wait to be written, if they come one by one; bounds the memory."""

Further = Callable[[ScoredCase, Path], Iterable[Path]]
"""Writes something more of a case into a folder, and tells the files."""


class CaseWriter:
    """Writes maps, panels and results of cases in background threads, begun in their order.

    The result of a case comes last: a case that has one is finished.

    Args:
        output_dir: maps go to ``maps/``, panels to ``panels/``, results to ``cases/``.
        pixel_threshold: see `pipelines.outputs.maps.write_maps` and `case_result`.
        maps: whether to write maps.
        panels: whether to draw a panel of each case.
        further: called with each case and the folder of its maps, e.g. to write DICOM objects.
        batch_size: cases that are scored at once, and may wait while the next ones are.
    """

    def __init__(
        self,
        output_dir: Path,
        pixel_threshold: float,
        maps: bool = False,
        panels: bool = False,
        further: Sequence[Further] = (),
        batch_size: int = 1,
    ) -> None:
        self.output_dir = output_dir
        self.pixel_threshold = pixel_threshold
        self.maps = maps
        self.panels = panels
        self.further = tuple(further)
        self.ahead = AHEAD + batch_size - 1
        self._pool = worker_threads(spare_threads(), "writer")
        self._waiting: list[Future[None]] = []

    def submit(
        self,
        scored: ScoredCase,
        panel: Sequence[Example],
        examples: list[Example],
        path: Path,
        stamp: str,
    ) -> None:
        """Takes a case to be written, with what its panel shows and the examples to be kept.

        Raises:
            Exception: whatever stopped the writing of an earlier case.
        """
        while len(self._waiting) >= self.ahead:
            self._waiting.pop(0).result()
        slim = replace(scored, reconstruction=None)  # of a case that waits
        task = self._pool.submit(self._write, slim, panel, examples, path, stamp)
        self._waiting.append(task)

    def _write(
        self,
        scored: ScoredCase,
        panel: Sequence[Example],
        examples: list[Example],
        path: Path,
        stamp: str,
    ) -> None:
        result = case_result(scored, self.pixel_threshold, examples)
        folder = self.output_dir / "maps"
        written: list[Path] = []
        if self.maps:
            written += write_maps(folder, scored, self.pixel_threshold)
        for write in self.further:
            written += write(scored, folder)
        if self.panels:
            panels = self.output_dir / "panels"
            written += save_panels(
                panels / f"{scored.sample.case.name}.png", panel, self.pixel_threshold
            )
        save_result(path, result, stamp, written)

    def close(self) -> None:
        """Waits for what is being written.

        Raises:
            Exception: whatever stopped the writing of a case.
        """
        try:
            for one in self._waiting:
                one.result()
        finally:
            self._waiting = []
            self._pool.shutdown()

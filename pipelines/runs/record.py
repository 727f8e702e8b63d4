"""What a training leaves for a comparison: what it cost, and its maps of the slices shown."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from networks import Detector
from pipelines.common import write_json
from pipelines.outputs import Shown, example_of
from pipelines.scoring import ScoredCase

COST_NAME = "cost.json"
MAPS_FOLDER = "shown"
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in which the system tells a process's memory."""


class RunRecord:
    """Measures a training and its scoring, and keeps its maps of some slices.

    Args:
        output_dir: gets ``cost.json``, and of each case shown the slice with the largest lesion, or
            else the middle one, below ``shown``.
        detector: what is trained.
        shown: names of the cases whose maps are kept.
    """

    def __init__(self, output_dir: str, detector: Detector, shown: Sequence[str] = ()) -> None:
        self.output_dir = Path(output_dir)
        self.detector = detector
        self.shown = set(shown)
        self.cost: dict[str, float] = {}
        self._since = 0.0
        self._images = 0

    def begin(self) -> None:
        """The training begins."""
        self._since = time.monotonic()

    def trained(self) -> None:
        """The training has ended, with all that is fitted in it."""
        self.cost["training_seconds"] = time.monotonic() - self._since

    def attach(self, engine: Engine) -> None:
        """Registers with the engine that scores the test cases."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._take)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._since = time.monotonic()

    def _take(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for scored in output["cases"]:
            self._images += len(scored.sample.indices)
            if scored.sample.case.name in self.shown:
                self._keep(scored)

    def _keep(self, scored: ScoredCase) -> None:
        sample, position = scored.sample, len(scored.sample.images) // 2
        if sample.masks is not None and bool(sample.masks.any()):
            position = int(sample.masks.flatten(1).sum(dim=1).argmax())
        Shown.of(example_of("scored", scored, position)).save(self.output_dir / MAPS_FOLDER)

    def _finish(self, engine: Engine) -> None:
        on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
        self.cost |= {
            "scoring_seconds": time.monotonic() - self._since,
            "images": self._images,
            "parameters": sum(one.numel() for one in self.detector.parameters()),
            "memory_gigabytes": peak / 2**30,
            "gpu_gigabytes": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0,
        }
        write_json(self.output_dir / COST_NAME, self.cost)

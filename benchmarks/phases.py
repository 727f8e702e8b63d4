"""Runs one `python -m monai.bundle` command line of a training and writes its seconds by phase.

``python -P benchmarks/phases.py seconds.json run training --config_file ...``, with the checkout
in ``PYTHONPATH``, which may be an older one: a phase that it does not have counts as nothing. Part
of `benchmarks.end_to_end`.
"""

from __future__ import annotations

import functools
import importlib
import json
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PHASES = (
    ("listing and reading", "pipelines.data", "open_data"),
    ("listing and reading", "pipelines.data.datasets", "NormalSlices.__init__"),
    ("preparing", "pipelines.training.sequence", "StagedTraining._prepare"),
    ("{phase}", "pipelines.training.stages", "StageTrainer.run"),
    ("{phase}, held out", "pipelines.training.stages", "StageEvaluator.run"),
    ("calibration", "pipelines.scoring.calibration", "Calibrator.run"),
    ("model file and scope", "pipelines.runs.training", "Training.save_model"),
    ("evaluation", "pipelines.batch.case_run", "CaseRun.run"),
    ("figures", "pipelines.runs.evaluation", "Evaluation._measure"),
    ("synthetic detection", "pipelines.runs.training", "measure_detection"),
    ("stability", "pipelines.runs.training", "measure_stability"),
    ("report", "pipelines.runs.session", "write_report"),
    ("tracking", "pipelines.tracking.tracker", "Tracker.start"),
    ("tracking", "pipelines.tracking.tracker", "Tracker.finish"),
)
"""Name, module and what is timed in it; ``phase`` is the attribute of an engine."""

REST = "start and rest"


class Clock:
    """Seconds and seconds of the processor by phase; an inner phase does not count in the outer."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}
        self.running = [REST]
        self.last = self._now()

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        @functools.wraps(work)
        def run(*args: Any, **kwargs: Any) -> Any:
            engine = getattr(args[0], "step", args[0]) if args else None
            phase = getattr(getattr(engine, "stage", None), "name", "idle stage")
            self._switch()
            self.running.append(name.format(phase=phase))
            try:
                return work(*args, **kwargs)
            finally:
                self._switch()
                self.running.pop()

        return run

    def phases(self) -> dict[str, list[float]]:
        """By name in the order of their ends, ``[seconds, seconds of the processor]``."""
        self._switch()
        return self.found

    def _switch(self) -> None:
        now = self._now()
        spent = self.found.setdefault(self.running[-1], [0.0, 0.0])
        self.found[self.running[-1]] = [
            a + n - b for a, n, b in zip(spent, now, self.last, strict=True)
        ]
        self.last = now

    @staticmethod
    def _now() -> tuple[float, float]:
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


def install(clock: Clock) -> None:
    """Puts the clock around what this checkout has of `PHASES`."""
    for name, module, path in PHASES:
        try:
            holder = importlib.import_module(module)
            *outer, last = path.split(".")
            for part in outer:
                holder = getattr(holder, part)
            setattr(holder, last, clock.timed(name, getattr(holder, last)))
        except (ImportError, AttributeError):
            continue


def main(output: str, *arguments: str) -> None:
    """Runs the command line ``arguments`` and writes ``output``."""
    clock = Clock()
    install(clock)
    sys.argv = ["monai.bundle", *arguments]
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    finally:
        Path(output).write_text(json.dumps(clock.phases()))


if __name__ == "__main__":
    main(*sys.argv[1:])

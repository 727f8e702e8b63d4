"""What becomes known of an epoch: a line for people, and its metrics in the tracking."""

from __future__ import annotations

from typing import Any

from pipelines.common import EngineProgress, EpochLine, ProgressFile, plainly
from pipelines.tracking.tracker import EpochTracker, Tracker

TITLES = {"pretrain": ("Pre-training", "Pre-training epoch"), "train": ("Training", "Epoch")}
"""How a stage's progress and its epochs are called; another stage goes by its name."""


class EpochReport:
    """Shows a trainer's progress, tells and records each epoch; a handler for trainers.

    Args:
        tracker: the run.
        progress: what other programs follow, if anything.
    """

    def __init__(self, tracker: Tracker, progress: ProgressFile | None = None) -> None:
        self.tracker = tracker
        self.progress = progress

    def attach(self, engine: Any) -> None:
        """Registers with a trainer that has a ``phase``, ``terms`` and a ``validator`` or None."""
        title, epoch = TITLES.get(engine.phase, (engine.phase, f"{engine.phase} epoch"))
        EngineProgress(title).attach(engine)
        EpochTracker(self.tracker, engine.phase).attach(engine)
        told = list(engine.terms)
        if engine.validator is not None:
            EpochTracker(self.tracker, engine.phase).attach(engine.validator)
            told += engine.validator.terms
        names = {name: _words(name) for name in told}
        EpochLine(epoch, names, engine.validator, self.progress).attach(engine)


def _words(metric: str) -> str:
    """A metric in plain words.

    Example:
        >>> _words("val_flow_loss")
        'held-out flow loss'
    """
    return plainly(metric.replace("val_", "held-out ", 1))

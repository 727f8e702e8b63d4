"""What becomes known of an epoch: a line for people, and its metrics in the tracking."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipelines.common import EngineProgress, EpochLine, ProgressFile
from pipelines.tracking.tracker import EpochTracker, Tracker


class Phase(NamedTuple):
    """How a phase of the training is told.

    Attributes:
        title: of its progress.
        epoch: what its epochs are called.
        validator: prefix of the validator's metrics in the tracking.
        names: the metrics to tell, as ``{metric: how it is called}``.
    """

    title: str
    epoch: str
    validator: str
    names: dict[str, str]


PHASES = {
    "pretrain": Phase(
        "Pre-training",
        "Pre-training epoch",
        "pretrain",
        {
            "loss": "loss",
            "val_loss": "held-out loss",
            "val_synthetic_auroc": "held-out AUROC of synthetic anomalies",
        },
    ),
    "train": Phase(
        "Training",
        "Epoch",
        "",
        {
            "loss": "loss",
            "flow_loss": "flow (bits/dim)",
            "recon_loss": "reconstruction",
            "val_flow_loss": "held-out flow",
            "val_recon_loss": "held-out reconstruction",
        },
    ),
}


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
        """Registers with a trainer that has a ``phase`` of `PHASES` and a ``validator`` or None."""
        phase = PHASES[engine.phase]
        EngineProgress(phase.title).attach(engine)
        EpochTracker(self.tracker, engine.phase).attach(engine)
        if engine.validator is not None:
            EpochTracker(self.tracker, phase.validator).attach(engine.validator)
        EpochLine(phase.epoch, phase.names, engine.validator, self.progress).attach(engine)

"""A whole training: the stages of a detector in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from networks import Detector
from pipelines.common import derive_seed, take_from_main
from pipelines.training.batches import Images, NormalBatches
from pipelines.training.resume import Checkpoints
from pipelines.training.stages import StageTrainer

LEAST_SHARE = 0.1
"""Of the time of all stages that each gets, before all are made to fit."""


class StagedTraining:
    """Runs a detector's stages in their order, each prepared from the data, and fits the rest.

    Args:
        detector: the method.
        trainers: of its stages; those of other stages stay idle.
        dataset: the normal images.
        device: where to train.
        checkpoints: from which it goes on, and which it saves; None for none.
        minutes: bound on all stages together, shared like the images that each would see by its
            epochs, a tenth at least, in place of these; 0 for none.

    Raises:
        ValueError: when a stage has no trainer.
    """

    def __init__(
        self,
        detector: Detector,
        trainers: Sequence[StageTrainer],
        dataset: Images,
        device: torch.device | str,
        checkpoints: Checkpoints | None = None,
        minutes: float = 0.0,
    ) -> None:
        by_stage = {one.step.stage.name: one for one in trainers if one.step.stage is not None}
        missing = [stage.name for stage in detector.stages if stage.name not in by_stage]
        if missing:
            raise ValueError(
                f"trainers: detector {detector.name!r} has the stages {missing} without a trainer; "
                f"define one for each (there are trainers of {list(by_stage)})."
            )
        self.detector = detector
        self.trainers = [by_stage[stage.name] for stage in detector.stages]
        if minutes > 0:
            counts = [_images(trainer) for trainer in self.trainers]
            shares = [max(LEAST_SHARE, count / sum(counts)) for count in counts]
            for trainer, share in zip(self.trainers, shares, strict=True):
                trainer.end_after(minutes * share / sum(shares))
        self.dataset = dataset
        self.device = torch.device(device)
        self.checkpoints = checkpoints

    def run(self) -> None:
        """Trains."""
        detector = self.detector.to(self.device)
        batches = NormalBatches(self.dataset, self.device)
        for trainer in self.trainers:
            self._prepare(batches, trainer.phase)
            if self.checkpoints is None:
                trainer.run()
            elif not self._passed(trainer):
                self.checkpoints.train(detector, trainer)
        self._prepare(batches, None)

    def _prepare(self, batches: NormalBatches, stage: str | None) -> None:
        """Prepares the detector; what is random in it depends on the stage alone.

        Each of several processes sees all data for it; the first one's result counts.
        """
        seed = self.trainers[0].step.seed if self.trainers else 0
        torch.manual_seed(derive_seed(seed, f"prepare-{stage}"))
        self.detector.prepare(batches, stage)
        take_from_main(self.detector)

    def _passed(self, trainer: StageTrainer) -> bool:
        """Whether an earlier training stopped behind this stage."""
        later = [one.phase for one in self.trainers[self.trainers.index(trainer) + 1 :]]
        return self.checkpoints is not None and self.checkpoints.stage in later


def _images(trainer: StageTrainer) -> int:
    """That a stage sees in all its epochs."""
    loader: Any = trainer.data_loader
    return int(trainer.state.max_epochs * len(loader) * loader.batch_size)

"""A whole training: the stages of a detector in their order."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from networks import Detector
from pipelines.common import derive_seed, take_from_main
from pipelines.training.batches import Images, NormalBatches
from pipelines.training.resume import Checkpoints
from pipelines.training.stages import StageTrainer


class StagedTraining:
    """Runs a detector's stages in their order, each prepared from the data, and fits the rest.

    Args:
        detector: the method.
        trainers: of its stages; those of other stages stay idle.
        dataset: the normal images.
        device: where to train.
        checkpoints: from which it goes on, and which it saves; None for none.
        minutes: bound on all stages together, each an equal share, in place of their own
            durations; 0 for none.

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
        for trainer in self.trainers if minutes > 0 else ():
            trainer.end_after(minutes / len(self.trainers))
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

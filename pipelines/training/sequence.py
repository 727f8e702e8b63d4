"""A whole training: the stages of a detector in their order."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from networks import Detector, Stage
from pipelines.training.batches import Images, NormalBatches
from pipelines.training.stages import StageTrainer


class StagedTraining:
    """Runs a detector's stages in their order, each prepared from the data, and fits the rest.

    Args:
        detector: the method.
        trainers: of its stages; those of other stages stay idle.
        dataset: the normal images.
        device: where to train.

    Raises:
        ValueError: when a stage has no trainer.
    """

    def __init__(
        self,
        detector: Detector,
        trainers: Sequence[StageTrainer],
        dataset: Images,
        device: torch.device | str,
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
        self.dataset = dataset
        self.device = torch.device(device)

    def run(self) -> None:
        """Trains."""
        detector = self.detector.to(self.device)
        batches = NormalBatches(self.dataset, self.device)
        for trainer in self.trainers:
            stage: Stage = trainer.step.stage  # type: ignore[assignment]
            detector.prepare(batches, stage.name)
            trainer.run()
        detector.prepare(batches, None)

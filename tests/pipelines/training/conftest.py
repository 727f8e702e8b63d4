"""What the tests of the training share: a small data set, and trainers of its stages."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from networks import Detector
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.training.batches import NormalBatches
from pipelines.training.stages import StageTrainer
from transforms.augment import NormalVariation
from transforms.synthetic import SyntheticAnomalies

TrainerOf = Callable[..., StageTrainer]


@pytest.fixture
def dataset(
    make_slices: Callable[[Tensor], NormalSlices], make_images: Callable[..., Tensor]
) -> NormalSlices:
    return make_slices(make_images(8))


@pytest.fixture
def trainer_of(dataset: NormalSlices, make_slices: Callable[[Tensor], NormalSlices]) -> TrainerOf:
    """Makes the trainer of a stage on the CPU; the detector is prepared for it, if asked."""

    def make(
        detector: Detector,
        stage: str = "train",
        epochs: int = 2,
        num_workers: int = 0,
        prepared: bool = True,
        images: Tensor | None = None,
        **kwargs: Any,
    ) -> StageTrainer:
        data = dataset if images is None else make_slices(images)
        if prepared:
            detector.prepare(NormalBatches(data), stage)
        how: dict[str, Any] = {
            "optimizer": partial(torch.optim.Adam, lr=3e-3),
            "synthetic": SyntheticAnomalies(variation=NormalVariation()),
            "seed": 1,
            "device": torch.device("cpu"),
            "train_data_loader": slice_loader(
                data, 4, 1, stage, min_samples=8, num_workers=num_workers
            ),
        }
        return StageTrainer(detector, stage, max_epochs=epochs, **how | kwargs)

    return make

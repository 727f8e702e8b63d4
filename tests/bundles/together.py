"""What each process of `test_together.py` runs: two small trainings, then the command line."""

import runpy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from ignite.engine import Events
from torch import Tensor

from networks import build_aeflow
from networks.detectors.aeflow import AEFlowDetector
from pipelines.common.distributed import join, processes, rank
from pipelines.data.cases import Case
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.metrics.pixel import pixel_metrics
from pipelines.scoring import detection
from pipelines.training.sequence import StagedTraining
from pipelines.training.stages import StageTrainer
from transforms.synthetic import SyntheticAnomalies

BATCH = 4


def trained(with_head: bool) -> dict[str, Tensor]:
    """The weights after each stage on twelve images, by as many processes as there are."""
    torch.manual_seed(0)
    network = build_aeflow(
        flow_strides=(8,), flow_steps=2, hidden=8, decoder_width=4, with_head=with_head
    )
    detector, images = AEFlowDetector(network), torch.rand(12, 1, 32, 32)
    dataset = NormalSlices([Case(str(n), str(n), ()) for n in range(12)], partial(cut, images))  # type: ignore[arg-type]
    trainers = [
        StageTrainer(
            detector, stage, partial(torch.optim.Adam, lr=3e-3), SyntheticAnomalies(), seed=1,
            average=stage == "pretrain", max_epochs=3, max_grad_norm=1.0, device="cpu",
            train_data_loader=slice_loader(dataset, BATCH // processes(), 1, stage),
            val_data_loader=slice_loader(dataset, BATCH),
        )
        for stage in ("pretrain", "train")
        if with_head or stage == "train"
    ]  # fmt: skip
    found: dict[str, Tensor] = {}

    def keep(engine: Any) -> None:
        metrics = engine.state.metrics | engine.validator.state.metrics
        told = {name: torch.as_tensor(value) for name, value in metrics.items()}
        state = {name: value.clone() for name, value in detector.state_dict().items()}
        found.update({f"{engine.phase} {name}": value for name, value in (state | told).items()})

    for trainer in trainers:
        trainer.add_event_handler(Events.COMPLETED, keep)
    StagedTraining(detector, trainers, dataset, "cpu").run()
    return found


def cut(images: Tensor, case: Case) -> Any:
    """One image as a case's only slice."""
    image = images[int(case.name)][None]
    body = {"body": torch.ones_like(image, dtype=torch.bool)}
    return SimpleNamespace(
        images=image, labels=torch.zeros(1), indices=torch.zeros(1).long(), context=body
    )


if __name__ == "__main__":
    join("cpu")
    states = {"train": trained(with_head=False), "all": trained(with_head=True)}
    torch.save(states, Path(sys.argv[1]) / f"states{rank()}.pt")
    pixel_metrics.__kwdefaults__["resamples"], detection.MOST_IMAGES = 50, 2  # type: ignore[index]
    sys.argv[:2] = ["monai.bundle"]
    runpy.run_module("monai.bundle", run_name="__main__")

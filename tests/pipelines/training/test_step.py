"""One batch of a stage: labelled anomalies that join it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from networks import AnomalyScorer, Detector
from networks.detectors.aeflow import AEFlowDetector
from networks.detectors.deep_svdd import DeepSVDD
from pipelines.data.labelled import LabelledBatch
from pipelines.training.stages import StageTrainer

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
TrainerOf = Callable[..., StageTrainer]


class Labelled:
    """Given images, of which the masks are known or not."""

    def __init__(self, images: Tensor, known: bool) -> None:
        self.images = images
        self.mask = (images > 0.5).float() if known else torch.full_like(images, torch.nan)
        self.counts: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def drawn(self, count: int, source: torch.Generator) -> LabelledBatch:
        self.counts.append(count)
        rows = torch.randint(len(self.images), (count,), generator=source)
        return LabelledBatch(self.images[rows], self.images[rows] > 0, self.mask[rows])


def detector_of(labels: str | None = "images", spatial_dims: int = 2) -> AEFlowDetector:
    torch.manual_seed(0)
    return AEFlowDetector(
        flow_strides=(8,), flow_steps=1, hidden=8, decoder_width=4, with_head=True,
        labels=labels, spatial_dims=spatial_dims,
    )  # fmt: skip


@pytest.mark.parametrize("stage", ["pretrain", "train"])
@pytest.mark.parametrize(("known", "depth"), [(True, None), (False, None), (True, 16)])
def test_labelled_anomalies_join_each_batch(
    stage: str,
    known: bool,
    depth: int | None,
    trainer_of: TrainerOf,
    make_images: MakeImages,
) -> None:
    """Slices, and patches of volumes."""
    labelled = Labelled(make_images(2, seed=5, depth=depth), known)
    detector = detector_of(spatial_dims=3 if depth else 2)
    seen: list[tuple[int, Tensor]] = []
    loss = detector.loss

    def noted(output: Any, inputs: Any, name: str, mask: Tensor | None = None) -> Any:
        seen.append((len(inputs.image), mask))
        return loss(output, inputs, name, mask)

    detector.loss = noted
    trainer_of(detector, stage, images=make_images(8, depth=depth), labelled=labelled).run()
    assert labelled.counts == [1] * 4  # two epochs of two batches
    for count, mask in seen:
        assert count == 5 and mask.shape == (5, *labelled.images.shape[1:])
        assert not mask[:4].isnan().any() and (stage == "pretrain" or not mask[:4].any())
        assert bool(mask[4].isnan().all()) != known


@pytest.mark.parametrize("detector", [detector_of(None), DeepSVDD()], ids=lambda one: one.name)
def test_a_stage_that_learns_nothing_from_them_sees_none(
    detector: Detector, trainer_of: TrainerOf, make_images: MakeImages
) -> None:
    labelled = Labelled(make_images(2), True)
    trainer_of(detector, "train", labelled=labelled).run()
    assert labelled.counts == []


def test_a_run_with_labels_repeats_itself(trainer_of: TrainerOf, make_images: MakeImages) -> None:
    found = []
    for _ in range(2):
        detector = detector_of()
        for stage in ("pretrain", "train"):
            trainer_of(detector, stage, labelled=Labelled(make_images(3, seed=5), True)).run()
        found.append(detector.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_flow_tells_labelled_anomalies(trainer_of: TrainerOf, make_images: MakeImages) -> None:
    detector, normal = detector_of(), make_images(4)
    anomalous = make_images(4, seed=7).flip(-1).roll(16, -2).clamp(0.4, 0.6)
    trainer_of(detector, "train", epochs=12, labelled=Labelled(anomalous, False)).run()
    detector.eval()
    with torch.no_grad():
        odds = [
            detector.mixtures[0].log_odds(detector.network(detector.normalize(x)).latents[0]).mean()
            for x in (normal, anomalous)
        ]
    assert odds[1] > odds[0] + 1

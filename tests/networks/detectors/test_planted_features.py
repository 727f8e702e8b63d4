"""The methods that learn what is normal of features, codes or likelihoods find what is planted."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from networks import DETECTORS, Detector, Inputs
from pipelines.common import generator
from pipelines.data import NormalSlices
from pipelines.training import NormalBatches
from transforms.synthetic import SyntheticAnomalies

MakeImages = Callable[..., Tensor]
MakeSlices = Callable[..., NormalSlices]
SIDE = 32
METHODS: dict[str, tuple[dict[str, Any], int]] = {
    "deep_svdd": ({}, 60),
    "dagmm": ({}, 100),
    "fastflow": ({"with_head": False, "strides": (4, 8)}, 30),
    "padim": ({"with_head": False, "features": 40}, 0),
    "patchcore": ({"with_head": False, "bank_size": 300}, 0),
    "anatpaste": ({}, 20),
}
"""Options and steps of training."""


def planted(images: Tensor) -> Tensor:
    """The images, each with a bright spot of a tenth of its side inside the body."""
    rows, columns = torch.meshgrid(*(torch.arange(SIDE) for _ in range(2)), indexing="ij")
    found = images.clone()
    for index, image in enumerate(found):
        row, column = SIDE // 3 + index % 9, SIDE // 3 + 5 * index % 9
        spot = torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * (SIDE / 12) ** 2))
        image += 0.5 * spot
    return found.clamp(0, 1)


def train(detector: Detector, images: Tensor, batches: NormalBatches, steps: int) -> Detector:
    anomalies = SyntheticAnomalies()
    for stage in detector.stages:
        detector.prepare(batches, stage.name)
        (group,) = stage.groups.values()
        optimizer = torch.optim.Adam(group, lr=1e-3)
        for step in range(steps):
            source = generator(0, stage.name, step)
            image, mask = images[torch.randint(len(images), (16,), generator=source)], None
            if stage.synthetic:
                body = image.amax(dim=1, keepdim=True) > 0
                image, mask = anomalies(image, body, body, source)
            inputs = Inputs(image)
            terms = detector.train().loss(
                detector(inputs, None, stage.name), inputs, stage.name, mask
            )
            optimizer.zero_grad()
            next(iter(terms.values())).backward()
            optimizer.step()
    detector.eval().prepare(batches, None)
    return detector


@pytest.mark.parametrize("name", METHODS)
def test_a_planted_spot_ranks_above_normal_images(
    name: str, make_images: MakeImages, make_slices: MakeSlices
) -> None:
    options, steps = METHODS[name]
    normal, held_out = (0.4 * make_images(96, height=SIDE, width=SIDE)).split((64, 32))
    detector = DETECTORS[name](**options)
    train(detector, normal, NormalBatches(make_slices(normal)), steps)
    inputs = Inputs(torch.cat([held_out, planted(held_out)]))
    with torch.no_grad():
        found = detector.evidence(detector(inputs), inputs)
    (part,) = detector.parts
    if part.pool is None:
        score = found.values[part.name]
    else:
        count = round(part.pool * found.maps[part.maps[0]][0].numel()) or 1
        score = sum(found.maps[one].flatten(1).topk(count).values.mean(dim=1) for one in part.maps)
    assert roc_auc_score([0] * 32 + [1] * 32, score) >= 0.8

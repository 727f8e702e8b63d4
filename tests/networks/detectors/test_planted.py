"""Each method, trained for seconds, ranks phantoms with a planted blob above normal ones."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from monai.metrics.rocauc import compute_roc_auc
from torch import Tensor

from networks import DETECTORS, AnomalyScorer, make_fusion
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.scoring.calibration import Calibrator
from pipelines.training.sequence import StagedTraining
from pipelines.training.stages import StageTrainer
from transforms.synthetic import SyntheticAnomalies

MakeSlices = Callable[..., NormalSlices]

SIDE = 32
CONFIGS: dict[str, dict[str, Any]] = {
    "ae": {"width": 8, "code": 8},
    "dae": {"width": 8},
    "vae": {"image_size": SIDE, "width": 8, "latent": 8},
    "anogan": {"image_size": SIDE, "width": 8, "latent": 8, "steps": 30},
    "fanogan": {"image_size": SIDE, "width": 8, "latent": 8},
    "adgan": {"image_size": SIDE, "width": 8, "latent": 8, "starts": 2, "steps": 15},
    "atlas": {"image_size": SIDE, "width": 8, "classes": 4, "templates": 2},
}
USUAL = {"epochs": 10, "lr": 2e-3, "betas": (0.9, 0.999)}
OF_GANS = {"epochs": 20, "lr": 1e-3, "betas": (0.5, 0.999)}
TRAINING: dict[str, dict[str, Any]] = dict.fromkeys(("anogan", "fanogan", "adgan"), OF_GANS)


def phantoms(count: int, seed: int, planted: bool = False) -> Tensor:
    """Bright discs with two dark holes, of varying size, place and brightness; (count, 1, s, s)."""
    source = torch.Generator().manual_seed(seed)
    random = torch.rand(count, 6, 1, 1, generator=source).unbind(dim=1)
    line = torch.linspace(-1.0, 1.0, SIDE)
    rows, columns = line[:, None] + 0.1 * (random[0] - 0.5), line + 0.1 * (random[1] - 0.5)
    size = 0.75 + 0.1 * random[2]
    disc = (rows**2 + columns**2 < size**2).float()
    holes = (rows**2 / 2 + (columns.abs() - 0.25) ** 2 < 0.012).float()
    image = disc * (0.6 + 0.05 * random[3]) * (1.0 - 0.6 * holes)
    if planted:
        angle, far = 6.28 * random[4], 0.45
        blob = (rows - far * angle.sin()) ** 2 + (columns - far * angle.cos()) ** 2 < 0.06
        image = torch.where(blob, torch.where(random[5] > 0.5, 1.0, 0.15), image)
    noise = 0.02 * torch.randn(image.shape, generator=source)
    return ((image + noise).clamp(0.0, 1.0) * disc).unsqueeze(1)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_planted_blob_is_found(name: str, make_slices: MakeSlices) -> None:
    detector = DETECTORS[name](in_channels=1, **CONFIGS[name])
    dataset = make_slices(phantoms(128, seed=0))
    how = {**TRAINING.get(name, USUAL)}
    epochs = how.pop("epochs")
    trainers = [
        StageTrainer(
            detector,
            stage.name,
            partial(torch.optim.Adam, **how),
            SyntheticAnomalies(),
            max_epochs=epochs,
            device="cpu",
            train_data_loader=slice_loader(dataset, 16, phase=stage.name),
        )
        for stage in detector.stages
    ]
    StagedTraining(detector, trainers, dataset, "cpu").run()
    scorer = AnomalyScorer(detector, make_fusion()).eval()
    held_out = make_slices(phantoms(24, seed=1))
    Calibrator(scorer, slice_loader(held_out, 8), "cpu", target_fpr=0.2).run()
    images = torch.cat([phantoms(24, seed=2), phantoms(24, seed=3, planted=True)])
    with torch.no_grad():
        score = scorer.score_image(images).score
    assert compute_roc_auc(score, torch.arange(48) >= 24) >= 0.8

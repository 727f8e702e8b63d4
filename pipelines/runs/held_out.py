"""What held-out normal images tell of a training where nothing anomalous does."""

from __future__ import annotations

import numpy as np
import torch
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from pipelines.common import counted
from pipelines.metrics import too_few
from pipelines.outputs import Example
from pipelines.scoring import Calibrator, SyntheticDetection

SHOWN = 4
"""Images of the calibration that are shown."""


def highest_normals(calibrator: Calibrator) -> list[Example]:
    """The normal images of the calibration with the highest scores, the highest first."""
    highest = np.argsort(-calibrator.slice_scores, kind="stable")[:SHOWN]
    return [_example(calibrator, number) for number in highest.tolist()]


def _example(calibrator: Calibrator, number: int) -> Example:
    scorer, dataset = calibrator.scorer, calibrator.loader.dataset
    numbers = calibrator.around(number)
    batch: dict[str, Tensor] = dataset.__getitems__(numbers)
    moved = {name: batch[name].to(calibrator.device) for name in scorer.detector.needs}
    with torch.no_grad():
        found = scorer.score_image(batch[Keys.IMAGE].to(calibrator.device), moved)
    one, restored = numbers.index(number), found.reconstruction
    maps = {"anomaly_map": found.anomaly_map, **found.maps}
    return Example(
        kind="held-out normal",
        case=calibrator.dataset.data[int(batch["case"][one])].name,
        index=int(batch["slice"][one]),
        score=float(found.score[one]),
        image=batch[Keys.IMAGE][one, 0].numpy(),
        reconstruction=None if restored is None else restored[one, 0].cpu().numpy(),
        maps={name: value[one, 0].cpu().numpy() for name, value in maps.items()},
        mask=None,
    )


def told_detection(found: SyntheticDetection) -> str:
    """How many synthetic anomalies of each size are flagged, in a line."""
    shares = {name: found.flagged(name) for name in found.diameters}
    told = ", ".join(f"{name} {one:.0%}" for name, one in shares.items() if one is not None)
    few = too_few(found.patients)
    return (
        f"  synthetic anomalies   {told or 'none shows'} flagged; without them "
        f"{found.flagged_without:.0%} of {counted(found.images, 'held-out normal image')}"
        f"{f' ({few})' if few else ''}"
    )

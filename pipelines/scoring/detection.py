"""How many synthetic anomalies a calibrated scorer finds in held-out normal images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from monai.utils.enums import CommonKeys as Keys
from scipy.stats import mannwhitneyu
from torch import Tensor
from torch.utils.data import DataLoader

from networks import AnomalyScorer
from pipelines.common import generator, track
from pipelines.scoring.cases import ScoreSlices
from pipelines.scoring.patches import in_volumes
from pipelines.scoring.stability import looked_at
from transforms.synthetic import SyntheticAnomalies

MOST_IMAGES = 48
"""Held-out normal images that get anomalies, evenly spaced; of volumes, one stretch of slices."""

SIZES: Mapping[str, tuple[float, float]] = {
    "small": (0.06, 0.12),
    "medium": (0.12, 0.24),
    "large": (0.24, 0.5),
}
"""Range of the diameters of the anomalies, as a share of the image's side."""

CAVEAT = "They say nothing sure about real anomalies."


@dataclass(frozen=True)
class Detection:
    """Anomalies of one kind and size.

    Attributes:
        kind: a name in `SyntheticAnomalies.known`.
        size: a name in `SIZES`.
        n: images in which the anomaly shows.
        flagged: share of them above the threshold, in [0, 1]; None without any.
        auroc: of these images against themselves without the anomaly.
    """

    kind: str
    size: str
    n: int
    flagged: float | None
    auroc: float | None


@dataclass(frozen=True)
class SyntheticDetection:
    """What was found of synthetic anomalies.

    Attributes:
        images: normal images that they were put into.
        patients: number of their patients.
        flagged_without: share of these images that are flagged as they are.
        diameters: of each size, in pixels of the network's input.
        practised: the kinds on which the detector was pre-trained; it was not on the others.
        rows: kind by kind and size by size.
    """

    images: int
    patients: int
    flagged_without: float
    diameters: Mapping[str, tuple[int, int]]
    practised: Sequence[str]
    rows: Sequence[Detection]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for ``metrics.json``."""
        return asdict(self) | {"caveat": CAVEAT}

    def flagged(self, size: str) -> float | None:
        """Share of the anomalies of a size that are flagged, whatever their kind."""
        known = [row for row in self.rows if row.size == size and row.flagged is not None]
        total = sum(row.n for row in known)
        return sum((row.flagged or 0.0) * row.n for row in known) / total if total else None


def measure_detection(
    scorer: AnomalyScorer,
    loader: DataLoader[dict[str, Tensor]],
    patients: Sequence[str],
    synthetic: SyntheticAnomalies,
    seed: int,
    device: torch.device | str,
) -> SyntheticDetection:
    """Puts anomalies of each kind and size into held-out normal images, and scores them.

    Args:
        scorer: the calibrated scorer.
        loader: the images, as for the calibration, with their ``region``.
        patients: whose they are, ``(N,)``.
        synthetic: makes the anomalies of the pre-training.
        seed: with kind and size it decides the anomalies, on any device.
        device: where to compute the scores.
    """
    dataset: Any = loader.dataset
    numbers = looked_at(loader, MOST_IMAGES, MOST_IMAGES)[0]
    batch = dataset.__getitems__(numbers)
    images, body, region = batch[Keys.IMAGE], batch["body"], batch["region"]
    context = {need: batch[need] for need in scorer.detector.needs}
    scorer = scorer.to(device).eval()
    score = ScoreSlices(int(loader.batch_size or MOST_IMAGES))
    with torch.no_grad():
        plain = score(images, scorer, context, device)["score"]
    threshold = float(scorer.calibration.threshold)
    trials = [(kind, name) for kind in synthetic.known for name in SIZES]
    rows = []
    for kind, name in track(trials, "Synthetic anomalies", len(trials), "trials"):
        low, high = SIZES[name]
        maker = synthetic.only(kind, low, high)
        source = generator(seed, f"detection {kind} {name}")
        changed, mask = in_volumes(scorer, maker)(images, body, region, source)
        with torch.no_grad():
            scores = score(changed, scorer, context, device)["score"]
        shows = mask.flatten(1).any(dim=1)
        rows.append(_detection(kind, name, scores[shows], plain[shows], threshold))
    side = min(images.shape[2:])
    trained = any(stage.synthetic for stage in scorer.detector.stages)
    return SyntheticDetection(
        images=len(numbers),
        patients=len({patients[number] for number in numbers}),
        flagged_without=float((plain > threshold).float().mean()),
        diameters={
            name: (round(low * side), round(high * side)) for name, (low, high) in SIZES.items()
        },
        practised=sorted(set(synthetic.practised)) if trained else [],
        rows=rows,
    )


def _detection(kind: str, size: str, with_it: Tensor, without: Tensor, limit: float) -> Detection:
    count = len(with_it)
    if not count:
        return Detection(kind, size, 0, None, None)
    area = float(mannwhitneyu(with_it.numpy(), without.numpy()).statistic) / count**2
    return Detection(kind, size, count, float((with_it > limit).float().mean()), area)

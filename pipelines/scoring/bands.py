"""Maps to severity bands: the label map that viewers show, and what a result says in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from networks.levels import level_at
from networks.scorer import AnomalyScorer
from pipelines.scoring.cases import ScoredCase
from pipelines.scoring.volume import top_slices
from transforms.errors import InputError

SUSPICIOUS = "suspicious"
VERY_SUSPICIOUS = "very suspicious"
LABELS = {SUSPICIOUS: 1, VERY_SUSPICIOUS: 2}
"""Names and values of the label map; 0 is unremarkable or not scored."""

VERY_SUSPICIOUS_PERCENTILE = 99.9
"""Percentile of held-out normal pixels at which the second band begins, unless told otherwise."""


@dataclass(frozen=True)
class Bands:
    """Where the bands begin: percentiles of the body pixels of held-out normal images.

    Attributes:
        levels: map values above which each band begins, in standard deviations; suspicious first.
        percentiles: the percentiles of these values, in [0, 100].
    """

    levels: tuple[float, float]
    percentiles: tuple[float, float]

    @classmethod
    def of(
        cls, scorer: AnomalyScorer, very_suspicious: float = VERY_SUSPICIOUS_PERCENTILE
    ) -> Bands:
        """Bands of a calibrated scorer: its pixel threshold, and a higher percentile.

        Args:
            scorer: the scorer.
            very_suspicious: percentile at which the second band begins.

        Raises:
            InputError: when that is not above the percentile of the pixel threshold.
        """
        first = 100.0 * (1.0 - round(float(scorer.calibration.pixel_fpr), 6))
        try:
            level = level_at(scorer.calibration.pixel_levels, very_suspicious)
        except ValueError as error:
            raise InputError(f"very_suspicious: {error}") from error
        if very_suspicious <= first:
            raise InputError(
                f"very_suspicious: expected a percentile above {first:g}, at which this model's "
                f"first band begins (--pixel_fpr of its training), found {very_suspicious:g}."
            )
        lower = float(scorer.calibration.pixel_threshold)
        return cls((lower, max(lower, level)), (first, very_suspicious))

    def label_map(self, anomaly_map: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The bands of a map of any shape: 0, 1 suspicious, 2 very suspicious."""
        first, second = ((anomaly_map > level).astype(np.uint8) for level in self.levels)
        return first + second

    def summary(self, label_map: NDArray[np.uint8], voxel_ml: float | None) -> dict[str, Any]:
        """Per band: where it begins, its voxels and, for volumes, its volume in millilitres."""
        found: dict[str, Any] = {}
        for (name, value), level, percentile in zip(
            LABELS.items(), self.levels, self.percentiles, strict=True
        ):
            count = int((label_map == value).sum())
            found[name] = {"above": level, "percentile": percentile, "voxels": count}
            if voxel_ml is not None:
                found[name]["millilitres"] = count * voxel_ml
        return found


@dataclass(frozen=True)
class Findings:
    """What a study's inference found.

    Attributes:
        scored: the case.
        anomaly_map: float32, standard deviations, on the grid of the input.
        label_map: uint8 of the same shape.
        words: the plain values of the answer.
    """

    scored: ScoredCase
    anomaly_map: NDArray[np.float32]
    label_map: NDArray[np.uint8]
    words: dict[str, Any]


def findings(scored: ScoredCase, bands: Bands) -> Findings:
    """Gathers map, label map and words of a scored case."""
    anomaly_map = np.asarray(scored.grid_map.as_tensor().numpy(), np.float32)
    label_map = bands.label_map(anomaly_map)
    geometry = scored.sample.geometry
    volumetric = geometry.slice_axis is not None
    affine = np.array(geometry.affine, np.float64)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000 if volumetric else None
    words = {
        "label_names": dict(LABELS),
        **{name: _finite(value) for name, value in scored.case_score.as_dict().items()},
        "bands": bands.summary(label_map, voxel_ml),
        "map": {
            "unit": "standard deviations",
            "lowest": float(anomaly_map.min()),
            "highest": float(anomaly_map.max()),
        },
    }
    if volumetric:
        top = scored.sample.indices[top_slices(scored.scores["score"]).tolist()]
        words["most_anomalous_slices"] = [int(one) for one in top]
    return Findings(scored, anomaly_map, label_map, words)


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value

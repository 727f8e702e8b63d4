"""Maps to severity bands: the label map that viewers show, and what a result says in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.case_scores import top_slices
from pipelines.scoring import ScoredCase

SUSPICIOUS = "suspicious"
VERY_SUSPICIOUS = "very suspicious"
LABELS = {SUSPICIOUS: 1, VERY_SUSPICIOUS: 2}
"""Names and values of the label map; 0 is unremarkable or not scored."""

MARGIN = 2.0
"""Standard deviations between the pixel threshold and the second band, unless told otherwise."""


@dataclass(frozen=True)
class Bands:
    """Map values, in standard deviations above normal pixels, above which a band begins.

    Attributes:
        suspicious: the model's pixel threshold, from its calibration.
        very_suspicious: the second level.
    """

    suspicious: float
    very_suspicious: float

    @classmethod
    def above(cls, pixel_threshold: float, margin: float = MARGIN) -> Bands:
        """Bands from the pixel threshold and ``margin`` standard deviations above it."""
        return cls(pixel_threshold, pixel_threshold + margin)

    def label_map(self, anomaly_map: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The bands of a map of any shape: 0, 1 suspicious, 2 very suspicious."""
        levels = (anomaly_map > self.suspicious).astype(np.uint8)
        return levels + (anomaly_map > self.very_suspicious)

    def summary(self, label_map: NDArray[np.uint8], voxel_ml: float | None) -> dict[str, Any]:
        """Per band: where it begins, its voxels and, for volumes, its volume."""
        begins = {SUSPICIOUS: self.suspicious, VERY_SUSPICIOUS: self.very_suspicious}
        found: dict[str, Any] = {}
        for name, value in LABELS.items():
            count = int((label_map == value).sum())
            found[name] = {"above": begins[name], "voxels": count}
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
    anomaly_map = np.asarray(scored.grid_map().as_tensor().numpy(), np.float32)
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

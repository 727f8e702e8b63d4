"""Maps of DICOM series as DICOM objects, written beside the other maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from networks.scorer import AnomalyScorer
from pipelines.common import installed_version
from pipelines.outputs.dicom_objects import (
    require_highdicom,
    write_parametric_map,
    write_segmentation,
)
from pipelines.scoring import ScoredCase


def dicom_writers(
    scorer: AnomalyScorer, save_dicom: bool
) -> list[Callable[[ScoredCase, Path], None]]:
    """What a run over cases calls with each case to leave DICOM objects.

    Args:
        scorer: the calibrated scorer, whose pixel threshold makes the segmentation.
        save_dicom: whether DICOM objects are wanted.

    Raises:
        InputError: when they are wanted and highdicom is not installed.
    """
    if not save_dicom:
        return []
    require_highdicom()
    return [DicomMaps(float(scorer.pixel_threshold))]


class DicomMaps:
    """Writes ``<case>_seg.dcm`` and ``<case>_map.dcm`` for a case that was read from a series.

    Other cases are passed over.

    Args:
        pixel_threshold: the map value above which a voxel belongs to the segmentation.
    """

    def __init__(self, pixel_threshold: float) -> None:
        self.pixel_threshold = pixel_threshold
        self.version = installed_version("aeflow") or "unknown"

    def __call__(self, scored: ScoredCase, folder: Path) -> None:
        """Writes both objects of one case."""
        sample = scored.sample
        files = [Path(file) for file in sample.header.get("dicom_files", ())]
        if not files or sample.geometry.slice_axis is None:
            return
        frames = sample.header.get("dicom_frames")
        anomaly_map = scored.grid_map().as_tensor().numpy().astype(np.float32)
        name = sample.case.name
        write_segmentation(
            folder / f"{name}_seg.dcm",
            anomaly_map > self.pixel_threshold,
            files,
            frames,
            threshold=self.pixel_threshold,
            model_version=self.version,
        )
        write_parametric_map(
            folder / f"{name}_map.dcm", anomaly_map, files, frames, model_version=self.version
        )

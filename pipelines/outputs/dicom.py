"""What a model finds in a DICOM series, as DICOM objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from networks.scorer import AnomalyScorer
from pipelines.outputs.dicom_objects import (
    require_highdicom,
    write_parametric_map,
    write_segmentation,
)
from pipelines.outputs.dicom_source import read_stack
from pipelines.scoring import ScoredCase, model_version


def dicom_writers(
    scorer: AnomalyScorer, model: Mapping[str, Any], save_dicom: bool
) -> tuple[Callable[[ScoredCase, Path], Any], ...]:
    """What a run over cases calls with each case to leave DICOM objects.

    Args:
        scorer: the calibrated scorer, whose pixel threshold makes the segmentation.
        model: content of its model file.
        save_dicom: whether DICOM objects are wanted.

    Raises:
        InputError: when they are wanted and highdicom is not installed.
    """
    if not save_dicom:
        return ()
    require_highdicom()
    return (DicomMaps(scorer, model),)


class DicomMaps:
    """Writes ``<case>_seg.dcm`` and ``<case>_map.dcm`` for a case that was read from a series.

    Other cases are passed over.

    Args:
        scorer: the calibrated scorer, above whose pixel threshold voxels are segmented.
        model: content of its model file, which the objects name as what made them.
    """

    def __init__(self, scorer: AnomalyScorer, model: Mapping[str, Any]) -> None:
        self.pixel_threshold = float(scorer.calibration.pixel_threshold)
        self.version = model_version(model)

    def __call__(self, scored: ScoredCase, folder: Path) -> list[Path]:
        """Writes both objects of one case, and tells what was written."""
        name = scored.sample.case.name
        objects = [folder / f"{name}_seg.dcm", folder / f"{name}_map.dcm"]
        return objects if self.write(scored, *objects) else []

    def write(self, scored: ScoredCase, mask: Path, parametric: Path | None = None) -> bool:
        """Writes the segmentation of a case and, if there is a place for it, its map.

        Returns:
            Whether the case was read from a series as a volume; otherwise nothing is written.
        """
        sample = scored.sample
        files = sample.header.get("dicom_files")
        if not files or sample.geometry.slice_axis is None:
            return False
        source = read_stack(files, sample.header.get("dicom_frames"))
        anomaly_map = scored.grid_map.as_tensor().numpy()
        write_segmentation(
            mask,
            anomaly_map > self.pixel_threshold,
            source,
            threshold=self.pixel_threshold,
            model_version=self.version,
        )
        if parametric:
            write_parametric_map(parametric, anomaly_map, source, model_version=self.version)
        return True

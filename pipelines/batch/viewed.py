"""The few volumes that a report lets people scroll through."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import nibabel as nib
import numpy as np

from pipelines.batch.case_run import CaseRun, Gathered
from pipelines.data import Case, SignalLoader
from pipelines.metrics import ScoreRow
from pipelines.report import ViewerVolume
from transforms.readers import read_case, read_mask

MOST_VIEWED = 3


def viewer_volumes(cases: CaseRun, gathered: Gathered) -> list[ViewerVolume]:
    """Reads the most telling volumes again, with the maps that were written of them.

    Returns:
        The volumes with the highest scores of the run; none where no maps were saved.
    """
    if not cases.save_maps or isinstance(cases.dataset.read, SignalLoader):
        return []
    by_name = {case.name: case for case in cases.dataset.data}
    volumes = [row for row in gathered.rows if row.is_whole]
    highest = sorted(volumes, key=lambda row: -row.score)[:MOST_VIEWED]
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    for row in gathered.rows:
        if row.slice is not None:
            scores[row.case][row.slice] = row.score
    return [_viewed(cases, by_name[row.case], row, scores[row.case]) for row in highest]


def _viewed(
    cases: CaseRun, case: Case, row: ScoreRow, slice_scores: dict[int, float]
) -> ViewerVolume:
    image = read_case(case.images, case.channels, resample=True, series_uid=case.series_uid)
    mask = None if case.mask is None else read_mask(case.mask, image)
    read: Any = cases.dataset.read
    written: Any = nib.load(cases.output_dir / "maps" / f"{case.name}_anomaly.nii.gz")
    return ViewerVolume(
        name=case.name,
        image=image.as_tensor()[0].numpy(),
        anomaly_map=np.asarray(written.dataobj, dtype=np.float32),
        mask=None if mask is None else mask.as_tensor()[0].bool().numpy(),
        affine=np.asarray(image.affine, dtype=np.float64),
        caption=_caption(row),
        slice_scores=slice_scores,
        slice_axis=read.parameters["axis"],
    )


def _caption(row: ScoreRow) -> str:
    told = f"score {row.score:.2f}"
    if row.percentile is not None:
        told += f", above {row.percentile:.0f} % of the held-out normal volumes"
    return told + (", flagged" if row.flagged else "")

"""The scores of a volume's patches, where a detector sees it in patches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from networks.pooling import top_mean
from pipelines.common import write_csv
from pipelines.data import CaseLoader

if TYPE_CHECKING:
    from pipelines.scoring import ScoredCase

POOL = 0.01
"""Share of a patch's pixels, the strangest ones, whose mean is its score."""

COLUMNS = ("first_slice", "last_slice", "top", "bottom", "left", "right", "score")


class PatchTable:
    """Writes ``<case>_patches.csv``: what each patch of a volume scores, the highest first.

    Scores are in standard deviations above the pixels of held-out normal images, see `POOL`. Slices
    are numbered as in ``scores.csv``, rows and columns are pixels of the upright slices of the
    file; first and last are both included.

    Args:
        loader: says where the patches lie.
    """

    def __init__(self, loader: CaseLoader) -> None:
        self.loader = loader

    def __call__(self, scored: ScoredCase, folder: Path) -> list[Path]:
        """Writes the table of a case into a folder."""
        sample, found = scored.sample, scored.canvas_maps["anomaly_map"]
        rows = []
        for along, *across in self.loader.windows(len(found)):
            edges = [*self._native(scored, 0, across[0]), *self._native(scored, 1, across[1])]
            if edges[0] > edges[1] or edges[2] > edges[3]:  # beside the image
                continue
            slices = sample.indices[along]
            score = float(top_mean(found[along, across[0], across[1]][None, None], POOL))
            values = (int(slices[0]), int(slices[-1]), *edges, round(score, 4))
            rows.append(dict(zip(COLUMNS, values, strict=True)))
        path = folder / f"{sample.case.name}_patches.csv"
        write_csv(path, sorted(rows, key=lambda row: -row["score"]), COLUMNS)
        return [path]

    @staticmethod
    def _native(scored: ScoredCase, axis: int, canvas: slice) -> tuple[int, int]:
        """First and last native pixel of an interval of the canvas."""
        geometry = scored.sample.geometry
        size, offset = geometry.native_shape[axis], geometry.offset[axis]
        first, end = (
            min(max(0, round((edge - offset) * size / geometry.fitted_shape[axis])), size)
            for edge in (canvas.start, canvas.stop)
        )
        return first, end - 1

"""The table of a volume's patches names where in the file the strangest lies."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipelines.data.cases import Case
from pipelines.data.slices import CaseLoader
from pipelines.outputs import PatchTable
from pipelines.scoring.cases import ScoredCase


def test_patches_are_listed_by_what_their_strangest_pixels_score(
    write_volume: Callable[..., Path], fake_scored: Callable[..., ScoredCase], tmp_path: Path
) -> None:
    loader = CaseLoader(32, patch_size=(4, 16, 16), overlap=0.0, min_body_fraction=0.0)
    sample = loader(Case("a", "pa", (write_volume("a", shape=(24, 48, 10)),)))
    assert sample.geometry.native_shape in {(24, 48), (48, 24)}
    scored = fake_scored(sample)
    found = torch.zeros(10, 32, 32)
    found[5, 20, 20] = 9.0
    maps = scored.canvas_maps | {"anomaly_map": found}
    (path,) = PatchTable(loader)(replace(scored, canvas_maps=maps), tmp_path)
    rows: list[dict[str, Any]] = list(csv.DictReader(path.open()))
    first, *others = rows
    assert path.name == "a_patches.csv" and {row["score"] for row in others} == {"0.0"}
    assert (first["first_slice"], first["last_slice"]) == ("4", "7")
    # A hundredth of the 1,024 pixels are ten.
    assert 0.7 < float(first["score"]) <= 0.9
    height, width = sample.geometry.native_shape
    for row in rows:
        assert 0 <= int(row["top"]) <= int(row["bottom"]) < height
        assert 0 <= int(row["left"]) <= int(row["right"]) < width
    assert int(first["bottom"]) == height - 1 and int(first["right"]) == width - 1
    assert max(int(row["last_slice"]) for row in rows) == 9

"""From maps to bands and words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.bands import LABELS, Bands, findings
from pipelines.cases import Case
from pipelines.datasets import CaseLoader
from pipelines.scoring import ScoredCase

AFFINE = np.array([[0, -2.0, 0, 9], [-1, 0, 0, 7], [0, 0, 1.5, -5], [0, 0, 0, 1]])


def test_a_band_begins_above_its_level() -> None:
    bands = Bands.above(1.5, 2.0)
    values = np.array([[-9.0, 1.5], [1.6, 3.5], [3.6, np.nan]], np.float32)
    labels = bands.label_map(values)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, [[0, 0], [1, 1], [2, 0]])
    found = bands.summary(labels, 0.5)
    assert found["suspicious"] == {"above": 1.5, "voxels": 2, "millilitres": 1.0}
    assert found["very suspicious"] == {"above": 3.5, "voxels": 1, "millilitres": 0.5}
    assert "millilitres" not in bands.summary(labels, None)["suspicious"]
    assert LABELS == {"suspicious": 1, "very suspicious": 2}


@pytest.fixture
def volume(write_volume: Callable[..., Path], fake_scored: Callable[..., ScoredCase]) -> ScoredCase:
    path = write_volume("scan", affine=AFFINE)
    sample = CaseLoader(32)(Case("scan", "scan", (path,)))
    values = np.full((len(sample.images), *sample.raw.shape[-2:]), 2.0)
    values[1] = 5.0
    return fake_scored(sample, anomaly_map=values, threshold=float("inf"))


def test_findings_are_on_the_grid_of_the_input(volume: ScoredCase) -> None:
    found = findings(volume, Bands.above(1.0, 2.0))
    assert found.label_map.shape == found.anomaly_map.shape == (24, 24, 6)
    np.testing.assert_array_equal(found.anomaly_map, volume.grid_map().as_tensor().numpy())
    np.testing.assert_array_equal(
        found.label_map, (found.anomaly_map > 1).astype(int) + (found.anomaly_map > 3)
    )
    assert set(np.unique(found.label_map)) == {0, 1, 2}


def test_words_are_plain(volume: ScoredCase) -> None:
    words: dict[str, Any] = findings(volume, Bands.above(1.0, 2.0)).words
    assert words["score"] == volume.case_score.score and words["flagged"] is False
    assert words["threshold"] is None  # infinite: JSON has no word for it
    assert words["most_anomalous_slices"] == [int(volume.sample.indices[-1])]
    assert words["map"] == {"unit": "standard deviations", "lowest": 0.0, "highest": 5.0}
    band = words["bands"]["very suspicious"]
    assert band["millilitres"] == pytest.approx(band["voxels"] * 3 / 1000) and band["voxels"]

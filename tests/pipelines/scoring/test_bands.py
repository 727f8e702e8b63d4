"""From maps to bands and words."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from networks import AnomalyScorer
from networks.levels import N_LEVELS
from pipelines.data.cases import Case
from pipelines.data.slices import CaseLoader
from pipelines.scoring.bands import LABELS, Bands, findings
from pipelines.scoring.cases import ScoredCase
from transforms.errors import InputError

AFFINE = np.array([[0, -2.0, 0, 9], [-1, 0, 0, 7], [0, 0, 1.5, -5], [0, 0, 0, 1]])
BANDS = Bands((1.0, 3.0), (99.0, 99.9))


@pytest.fixture
def scorer(make_scorer: Callable[..., AnomalyScorer]) -> AnomalyScorer:
    """A scorer whose map has the value 10 d where a share 10 ** -d of normal pixels exceeds it."""
    made = make_scorer()
    made.calibration.pixel_levels.copy_(torch.linspace(0.0, 40.0, N_LEVELS))
    made.calibration.pixel_threshold.fill_(20.0)
    made.calibration.pixel_fpr.fill_(0.01)
    return made


def test_bands_begin_at_percentiles_of_normal_pixels(scorer: AnomalyScorer) -> None:
    bands = Bands.of(scorer)
    assert bands.percentiles == pytest.approx((99.0, 99.9))
    assert bands.levels == pytest.approx((20.0, 30.0), abs=1e-4)
    assert Bands.of(scorer, 99.5).levels[1] == pytest.approx(10 * math.log10(200), abs=0.01)
    scorer.calibration.pixel_threshold.fill_(35.0)  # a threshold of few pixels may lie above
    assert Bands.of(scorer).levels == pytest.approx((35.0, 35.0))


@pytest.mark.parametrize("percentile", [99.0, 50.0])
def test_the_second_band_lies_above_the_first(scorer: AnomalyScorer, percentile: float) -> None:
    with pytest.raises(InputError, match="very_suspicious: expected a percentile above 99, "):
        Bands.of(scorer, percentile)


@pytest.mark.parametrize("percentile", [-1.0, 99.995, 100.0, float("nan")])
def test_a_percentile_that_no_calibration_knows_is_refused(
    scorer: AnomalyScorer, percentile: float
) -> None:
    with pytest.raises(InputError, match="very_suspicious: percentile: expected 0 to 99.99"):
        Bands.of(scorer, percentile)


def test_a_band_begins_above_its_level() -> None:
    bands = Bands((1.5, 3.5), (99.0, 99.9))
    values = np.array([[-9.0, 1.5], [1.6, 3.5], [3.6, np.nan]], np.float32)
    labels = bands.label_map(values)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, [[0, 0], [1, 1], [2, 0]])
    found = bands.summary(labels, 0.5)
    first = {"above": 1.5, "percentile": 99.0, "voxels": 2, "millilitres": 1.0}
    second = {"above": 3.5, "percentile": 99.9, "voxels": 1, "millilitres": 0.5}
    assert found == {"suspicious": first, "very suspicious": second}
    assert "millilitres" not in bands.summary(labels, None)["suspicious"]
    assert LABELS == {"suspicious": 1, "very suspicious": 2}


@pytest.fixture
def volume(write_volume: Callable[..., Path], fake_scored: Callable[..., ScoredCase]) -> ScoredCase:
    path = write_volume("scan", affine=AFFINE)
    sample = CaseLoader(32)(Case("scan", "scan", (path,)))
    values = np.full((len(sample.images), *sample.body.shape[1:]), 2.0)
    values[1] = 5.0
    return fake_scored(sample, anomaly_map=values, threshold=float("inf"))


def test_findings_are_on_the_grid_of_the_input(volume: ScoredCase) -> None:
    found = findings(volume, BANDS)
    assert found.label_map.shape == found.anomaly_map.shape == (24, 24, 6)
    np.testing.assert_array_equal(found.anomaly_map, volume.grid_map.as_tensor().numpy())
    np.testing.assert_array_equal(
        found.label_map, (found.anomaly_map > 1).astype(int) + (found.anomaly_map > 3)
    )
    assert set(np.unique(found.label_map)) == {0, 1, 2}


def test_words_are_plain(volume: ScoredCase) -> None:
    words: dict[str, Any] = findings(volume, BANDS).words
    assert words["score"] == volume.case_score.score and words["flagged"] is False
    assert words["threshold"] is None  # infinite: JSON has no word for it
    assert words["most_anomalous_slices"] == [int(volume.sample.indices[-1])]
    assert words["map"] == {"unit": "standard deviations", "lowest": 0.0, "highest": 5.0}
    band = words["bands"]["very suspicious"]
    assert band["millilitres"] == pytest.approx(band["voxels"] * 3 / 1000) and band["voxels"]

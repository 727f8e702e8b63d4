"""Levels of the anomaly map."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from networks.levels import HIGHEST_PERCENTILE, N_LEVELS, level_at, levels_of, ranks


@given(st.integers(1, 5000), st.floats(0.0, 1.0))
def test_at_most_the_share_exceeds_the_value_of_a_rank(count: int, share: float) -> None:
    rank = int(ranks(torch.tensor(share, dtype=torch.float64), count))
    assert 0 <= rank < count
    assert count - 1 - rank <= share * count + 1e-6


@pytest.mark.parametrize("percentile", [0.0, 37.0, 90.0, 99.0, 99.9, HIGHEST_PERCENTILE])
def test_the_levels_of_evenly_spread_pixels(percentile: float) -> None:
    levels = levels_of(torch.linspace(0.0, 1.0, 200_001, dtype=torch.float64))
    assert len(levels) == N_LEVELS and bool((levels.diff() >= 0).all())
    assert level_at(levels, percentile) == pytest.approx(percentile / 100, abs=2e-4)


def test_a_level_between_two_is_interpolated_over_the_logarithm() -> None:
    levels = torch.arange(N_LEVELS, dtype=torch.float64)
    share = 10**-1.005  # halfway between two levels
    assert level_at(levels, 100 * (1 - share)) == pytest.approx(100.5, abs=1e-4)


@pytest.mark.parametrize("percentile", [-0.1, 99.999, 100.0, math.nan])
def test_a_percentile_out_of_range_is_refused(percentile: float) -> None:
    with pytest.raises(ValueError, match="percentile: expected 0 to 99.99, got"):
        level_at(torch.zeros(N_LEVELS), percentile)

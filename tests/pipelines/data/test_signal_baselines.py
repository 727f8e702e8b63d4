"""Trivial traces of signals."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.data.cases import Case
from pipelines.data.datasets import CaseDataset
from pipelines.data.signal_baselines import (
    find_season,
    moving_median,
    seasonal_difference,
    window_score,
)
from pipelines.data.signals import SignalLoader

RNG = np.random.default_rng(0)


def seasonal(length: int = 400, season: int = 20, noise: float = 0.05) -> np.ndarray:
    time = np.arange(length)
    course = 0.01 * time + np.sin(2 * np.pi * time / season) + (time % season < 2)
    return (course + noise * np.random.default_rng(length).normal(size=length))[None]


def test_moving_median_by_hand() -> None:
    # Medians of three are 1 2 3 3 4 4; the residuals 0 0 6 0 -1 0 have quartiles of 0 and 0, so
    # their standard deviation, sqrt(37 / 6 - 25 / 36), is the unit.
    trace = moving_median([[1, 2, 9, 3, 3, 4]], window=3)
    medians = np.array([1, 2, 3, 3, 3, 4])
    residual = np.array([1, 2, 9, 3, 3, 4]) - medians
    assert trace == pytest.approx(residual / residual.std(), abs=1e-6)


def test_a_spike_and_a_dip_stand_out() -> None:
    signal = RNG.normal(size=(1, 300))
    signal[0, 100] += 30
    signal[0, 200] -= 30
    trace = moving_median(signal)
    assert set(np.argsort(trace)[-2:]) == {100, 200} and trace.min() >= 0


def test_seasonal_difference_by_hand() -> None:
    signal = [[0, 1, 2, 3, 4, 10, 6, 7]]
    # To one season of four before: 4 9 4 4; in the first season to the one after: -4 -9 -4 -4.
    difference = np.array([-4, -9, -4, -4, 4, 9, 4, 4.0])
    low, middle, high = np.quantile(difference, [0.25, 0.5, 0.75])
    expected = np.abs(difference - middle) / (high - low)
    assert seasonal_difference(signal, 4) == pytest.approx(expected)


def test_seasonal_difference_finds_what_is_ordinary_elsewhere_in_the_season() -> None:
    signal = seasonal()
    signal[0, 200:210] = signal[0, 210:220]
    trace = seasonal_difference(signal, 20)
    assert set(np.argsort(trace)[-10:]) <= {*range(200, 210), *range(220, 230)}
    assert not np.isin(np.argsort(moving_median(signal))[-10:], range(200, 210)).any()


def test_gaps_score_nothing_and_change_nothing_else() -> None:
    signal, seen = seasonal(), np.ones(400, bool)
    seen[50:60] = False
    wild = np.where(seen, signal, 1e6)
    trace = seasonal_difference(wild, 20, seen)
    assert (trace[50:60] == 0).all() and (trace[70:80] == 0).all()  # and their counterparts
    assert trace.max() < 10 and trace == pytest.approx(seasonal_difference(signal, 20, seen))
    assert (moving_median(signal, seen)[50:60] == 0).all()


def test_a_signal_shorter_than_a_season_has_no_difference() -> None:
    assert (seasonal_difference(seasonal(20), 20) == 0).all()


def test_channels_are_averaged() -> None:
    both = np.concatenate([seasonal(), RNG.normal(size=(1, 400))])
    alone = [seasonal_difference(channel[None], 20) for channel in both]
    assert seasonal_difference(both, 20) == pytest.approx(np.mean(alone, axis=0))


def test_season_is_the_shortest_that_explains_the_signals() -> None:
    assert find_season([seasonal(300), seasonal(410)]) == 20
    time = np.arange(1000)
    weeks = seasonal(1000) * (1 - 0.7 * ((time // 20) % 7 >= 5))
    assert find_season([weeks]) == 140
    assert find_season([RNG.normal(size=(1, 500))]) is None
    assert find_season([np.ones((1, 100))]) is find_season([]) is None


def test_score_of_a_window_is_the_mean_of_its_highest_samples() -> None:
    assert window_score(np.r_[np.zeros(90), np.arange(1, 11)]) == 5.5
    assert window_score([1.0, 2.0]) == 1.5


def test_windows_have_scores_and_maps_that_join_to_the_trace(tmp_path: Path) -> None:
    signal = seasonal()
    signal[0, 300] += 9
    signal[0, 50:60] = np.nan
    np.save(tmp_path / "a.npy", signal[0])
    case = Case("a", "a", (tmp_path / "a.npy",), label=0)
    np.save(tmp_path / "b.npy", seasonal()[0])
    clean = Case("b", "b", (tmp_path / "b.npy",), label=0)
    plain = SignalLoader(64, 16, min_body_fraction=0.8, training=(clean,))
    loader = CaseDataset([case], plain, baselines=True).read
    sample = loader(case)
    assert plain.season == 20 and plain(case).baselines is None
    assert sample.baselines is not None and set(sample.baselines.maps) == {
        "moving_median", "seasonal_difference"
    }  # fmt: skip
    windows = sample.baselines.maps["moving_median"]
    known = np.isfinite(trace := sample.trace(windows))
    expected = moving_median(sample.signal.filled, sample.signal.seen)
    np.testing.assert_allclose(trace[known], expected[known], rtol=1e-4, atol=1e-5)
    highest = int(np.argmax(sample.baselines.scores["moving_median"]))
    assert sample.geometry.starts[highest] <= 300 < sample.geometry.starts[highest] + 64
    assert SignalLoader(**plain.parameters).season == 20
    plain.season = None
    assert "seasonal_difference" not in CaseDataset([case], plain, True).read(case).baselines.maps

"""Generated KPIs."""

import csv
from pathlib import Path

import numpy as np

from benchmarks.kpi import DAY, WEEK, draw_kpi, write_kpis
from pipelines.data.signal_baselines import find_season, seasonal_difference


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_files_are_small_repeatable_and_labelled(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_kpis(tmp_path / name, normal=2, anomalous=2, seed=5)
    first, again = (sorted((tmp_path / name).rglob("*.csv")) for name in ("a", "b"))
    assert [one.parent.name for one in first] == ["anomalous"] * 2 + ["normal"] * 2
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(first, again, strict=True))
    assert len({one.read_bytes() for one in first}) == 4 and first[0].stat().st_size < 60_000
    for path in first:
        rows = table(path)
        assert len(rows) == 3 * WEEK and rows[1]["time"] == "2026-01-05T00:15"
        assert any(row["label"] == "1" for row in rows) == (path.parent.name == "anomalous")
        assert all(float(row["value"]) > 0 for row in rows if row["value"])


def test_there_are_seasons_gaps_and_events_that_the_season_tells() -> None:
    drawn = [draw_kpi(3 * WEEK, True, np.random.default_rng([0, number])) for number in range(8)]
    gaps = [np.isnan(values) for values, _ in drawn]
    assert any(one.any() for one in gaps) and max(one.mean() for one in gaps) < 0.08
    bridged = [
        np.where(gap, np.nanmean(v), v)[None] for (v, _), gap in zip(drawn, gaps, strict=True)
    ]
    assert find_season(bridged) in (DAY, WEEK)
    for signal, (_, labels), gap in zip(bridged, drawn, gaps, strict=True):
        trace = seasonal_difference(signal, WEEK, ~gap)
        starts = np.flatnonzero(np.diff(labels.astype(int)) == 1)
        assert 2 <= starts.size <= 4 and (np.diff(starts) > DAY // 2).all()
        assert trace[labels].mean() > 1.5 * trace[~labels & ~gap].mean()

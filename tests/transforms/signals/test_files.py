"""Signal files: what they hold, on a clock with gaps; what is told of wrong ones."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transforms.errors import InputError
from transforms.signals import labels_file, read_signal

WAVE = np.sin(np.arange(40) / 3)


def write_csv(path: Path, time: Any, *columns: Any, header: str = "time,value") -> Path:
    rows = [",".join(map(str, row)) for row in zip(time, *columns, strict=True)]
    path.write_text("\n".join([header, *rows]))
    return path


def test_a_table_with_a_jump_in_time_and_a_missing_value_has_gaps(tmp_path):
    kept = [n for n in range(40) if not 10 <= n < 15]
    values = ["" if n == 20 else WAVE[n] for n in kept]
    jittered = [n / 4 + 0.02 * (n % 2) for n in kept]
    path = write_csv(tmp_path / "a.csv", jittered, values, [int(n > 35) for n in kept],
                     header="Time,speed,Label")  # fmt: skip

    found = read_signal(path)

    assert found.channels == ("speed",) and found.rate == pytest.approx(4, rel=0.01)
    assert np.flatnonzero(~found.seen).tolist() == [10, 11, 12, 13, 14, 20]
    assert np.allclose(found.values[0, found.seen], WAVE[found.seen])
    assert np.allclose(np.delete(found.time, range(10, 15)), jittered)
    assert np.flatnonzero(found.labels).tolist() == [36, 37, 38, 39]
    line = np.interp(np.arange(9, 16), [9, 15], WAVE[[9, 15]])
    assert np.allclose(found.filled[0, 9:16], line, atol=1e-6)
    assert labels_file(path) == path


def test_dates_rounded_times_and_intervals(tmp_path):
    first = datetime.datetime(2024, 3, 30, 23, 59, tzinfo=datetime.UTC)
    dates = [(first + datetime.timedelta(minutes=n)).isoformat() for n in range(40)]
    path = write_csv(tmp_path / "kpi.csv", dates, WAVE, header="timestamp,value")
    write_csv(tmp_path / "kpi.labels.csv", [dates[5]], [dates[7]], header="start,end")
    rounded = write_csv(tmp_path / "ms.csv", np.round(np.arange(40) / 360, 3), WAVE)
    times = np.round(np.r_[np.arange(20), np.arange(20) + 50.4] / 360, 3)
    restarted = write_csv(tmp_path / "restarted.csv", times, WAVE)

    found = read_signal(path)

    assert found.dates and found.rate == pytest.approx(1 / 60)
    assert found.told_time(found.time[:2]) == ["2024-03-30T23:59:00.000", "2024-03-31T00:00:00.000"]
    assert np.flatnonzero(found.labels).tolist() == [5, 6, 7]
    assert read_signal(rounded).seen.all() and len(read_signal(rounded).time) == 40
    again = read_signal(restarted)
    assert again.seen.sum() == 40 and np.allclose(again.time[again.seen], times)
    assert abs(len(again.time) - 70) <= 1


def test_numpy_edf_and_wfdb_hold_the_same(tmp_path):
    edfio, wfdb = pytest.importorskip("edfio"), pytest.importorskip("wfdb")
    both = np.stack([WAVE, 1 - WAVE])
    np.save(tmp_path / "a.npy", both.T)
    marks = np.arange(40) == 3
    np.savez(tmp_path / "b.npz", signal=both, rate=8, label=marks, channels=["a", "b"])
    signals = [edfio.EdfSignal(row, 8, label=name) for row, name in zip(both, "ab", strict=True)]
    edfio.Edf(signals).write(tmp_path / "c.edf")
    wfdb.wrsamp("d", 8, ["mV"] * 2, ["a", "b"], both.T, fmt=["16"] * 2, write_dir=str(tmp_path))

    found = [read_signal(tmp_path / name) for name in ("a.npy", "b.npz", "c.edf", "d.hea")]

    for one in found:
        assert np.allclose(one.values, both, atol=1e-3)
    assert [one.rate for one in found] == [None, 8, 8, 8]
    assert found[0].channels == ("channel_1", "channel_2")
    assert {one.channels for one in found[1:]} == {("a", "b")}
    assert found[1].labels.tolist() == marks.tolist()
    chosen = read_signal(tmp_path / "c.edf", ["b"])
    assert chosen.channels == ("b",) and np.allclose(chosen.values[0], both[1], atol=1e-3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("time,value\n0,1\n1,2\n1,3\n", "increase from row to row"),
        ("time,value\n0,1\n1,2\n2,3\n2.4,3\n3.4,3\n", "equal distances"),
        ("time,value\n0,1\n1,2\n2,3\n400,3\n", "few gaps"),
        ("time,word\n0,a\n1,b\n", "column of numbers"),
        ("time,value,other\n0,1,\n1,2,\n", "channel other has no value"),
        ("time,value\n0,1\n1\n2,3,4,5\n", "reading it failed"),
    ],
)
def test_wrong_tables_are_told(tmp_path, text, told):
    (tmp_path / "a.csv").write_text(text)

    with pytest.raises(InputError, match=told):
        read_signal(tmp_path / "a.csv")


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    path = write_csv(tmp_path / "a.csv", range(40), WAVE)
    with pytest.raises(InputError, match="expected the channels speed, found value"):
        read_signal(path, ["speed"])
    write_csv(tmp_path / "a.labels.csv", [50], [60], header="start,end")
    with pytest.raises(InputError, match="inside the signal"):
        read_signal(path)
    monkeypatch.setitem(__import__("sys").modules, "wfdb", None)
    (tmp_path / "d.hea").write_text("d 1 8 40\n")
    with pytest.raises(InputError, match=r"aeflow\[signals\]"):
        read_signal(tmp_path / "d.hea")

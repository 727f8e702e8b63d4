import csv
import zipfile
from pathlib import Path

import pytest

from benchmarks.signals import DATA, RECORDINGS, main, pieces


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "aeon.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in RECORDINGS["ecg"]:
            marked = range(1960, 2040) if "TEST" in name else ()
            rows = [f"{t},{t % 20},{int(t in marked)}.0" for t in range(3500)]
            archive.writestr(f"{DATA}/{name}", "\n".join(["timestamp,value-0,is_anomaly", *rows]))
    return path


def test_recordings_are_cut_between_events(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["ecg", "--source", str(wheel), "--output", str(tmp_path / "ecg")])
    assert "1 anomalous, 8 normal" in capsys.readouterr().out
    (path,) = (tmp_path / "ecg" / "anomalous").iterdir()
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == ["0"] * 960 + ["1"] * 80
    assert rows[0] == {"time": "1000.0", "value": "0", "label": "0"}


def test_no_sample_is_lost() -> None:
    rows = [(float(t), "1", int(t in (2, 3))) for t in range(11)]
    assert [len(one) for one in pieces(rows, 3)] == [4, 3, 4]
    assert [row for one in pieces(rows, 3) for row in one] == rows


def test_a_source_that_is_not_one_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in ([], ["--source", str(tmp_path)]):
        with pytest.raises(SystemExit):
            main(["ecg", "--output", str(tmp_path), *source])
        assert "pip download --no-deps aeon" in capsys.readouterr().err

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.batch_kills import equal_maps, killed, scores


def writer(folder: Path, count: int) -> list[str]:
    """A program that makes a map, and another, and leaves those that are there."""
    return [
        sys.executable,
        "-c",
        "import pathlib, sys, time\n"
        f"for n in range({count}):\n"
        f"    pathlib.Path({str(folder / 'maps')!r}, f'{{n}}_anomaly.nii.gz').touch()\n"
        "    time.sleep(0.3)\n",
    ]


def test_a_batch_is_killed_after_some_more_maps(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    found = killed(writer(tmp_path, 9), tmp_path / "log", tmp_path, 2, 0.0)
    assert found == 2
    assert killed(writer(tmp_path, 1), tmp_path / "log", tmp_path, 2, 0.0) is None
    with pytest.raises(RuntimeError, match="failed; its log is"):
        killed([sys.executable, "-c", "raise SystemExit(1)"], tmp_path / "log", tmp_path, 1, 0.0)


def test_rows_that_are_there_twice_are_told(tmp_path: Path) -> None:
    rows = "case,level,slice,score\na,volume,,1.5\na,slice,3,2.5\n"
    (tmp_path / "scores.csv").write_text(rows)
    assert scores(tmp_path) == {("a", "volume", ""): "1.5", ("a", "slice", "3"): "2.5"}
    (tmp_path / "scores.csv").write_text(rows + "a,slice,3,2.5\n")
    with pytest.raises(ValueError, match="1 rows are there twice"):
        scores(tmp_path)


def test_maps_are_compared_by_value_and_place(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    for name, factor, spacing in (("a", 1, 1), ("b", 1, 1), ("c", 2, 1), ("d", 1, 2)):
        (tmp_path / name / "maps").mkdir(parents=True)
        image = nib.Nifti1Image(values * factor, np.diag([spacing, 1, 1, 1]))
        nib.save(image, tmp_path / name / "maps" / "x_anomaly.nii.gz")
    (tmp_path / "e" / "maps").mkdir(parents=True)
    equal = {name: equal_maps(tmp_path / "a", tmp_path / name) for name in "bcde"}
    assert equal == {"b": True, "c": False, "d": False, "e": False}

import csv
from pathlib import Path

import pytest

from benchmarks.arrange import brats_rows, main, write_table, xray_rows
from pipelines.data.layouts import read_cohort
from pipelines.data.splits import split_cohort
from transforms.errors import InputError


@pytest.fixture
def xray(tmp_path: Path) -> Path:
    for folder in ("train_normal", "val_pneumonia"):
        (tmp_path / folder).mkdir()
    for number in range(100, 140):
        (tmp_path / "train_normal" / f"IM-0{number}-0001.jpeg").touch()
    for number in range(100, 110):
        (tmp_path / "train_normal" / f"NORMAL2-IM-0{number}-0001.jpeg").touch()
    for number in range(6):
        (tmp_path / "val_pneumonia" / f"person{number}_virus_{number}.jpeg").touch()
    return tmp_path


def patients(rows: list[tuple[str, str, str, str, str]], split: str) -> set[str]:
    return {row[1] for row in rows if row[4] == split and row[2] == "normal"}


def test_a_tenth_of_the_normal_patients_is_held_out(xray: Path) -> None:
    rows = xray_rows(xray, seed=0, half="all")
    held_out, trained = patients(rows, "test"), patients(rows, "train")
    assert len(held_out) == 4 and len(trained) == 36 and not held_out & trained
    assert xray_rows(xray, 0, "all") == rows
    assert patients(xray_rows(xray, 1, "all"), "test") != held_out


def test_the_halves_of_the_pneumonias_share_nothing(xray: Path) -> None:
    halves = [
        {row[0] for row in xray_rows(xray, 0, half) if row[2] == "anomalous"}
        for half in ("development", "untouched", "all")
    ]
    assert not halves[0] & halves[1] and halves[0] | halves[1] == halves[2]
    assert len(halves[0]) == len(halves[1]) == 3


def test_the_table_is_a_data_set(xray: Path, tmp_path: Path) -> None:
    folder = tmp_path / "table"
    main(["xray", "--source", str(xray), "--output", str(folder), "--half", "untouched"])
    split = split_cohort(read_cohort(folder))
    assert len(split.test) == 3 + sum(
        row["split"] == "test" and row["label"] == "normal"
        for row in csv.DictReader((folder / "cases.csv").open())
    )


def test_brats_patients_alternate(tmp_path: Path) -> None:
    for name in ("A", "B", "C"):
        (tmp_path / name).mkdir()
        for suffix in ("t2", "flair", "seg"):
            (tmp_path / name / f"{name}_{suffix}.nii.gz").touch()
    even = brats_rows(tmp_path, ["flair", "t2"], "even")
    assert [row[4] for row in even] == ["train", "test", "train"]
    assert [row[4] for row in brats_rows(tmp_path, ["t2"], "odd")] == ["test", "train", "test"]
    assert even[0][0].count(";") == 1 and even[0][3].endswith("A_seg.nii.gz")
    assert write_table(tmp_path / "out", even).name == "cases.csv"


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train_normal"):
        xray_rows(tmp_path, 0, "all")
    (tmp_path / "A").mkdir()
    with pytest.raises(InputError, match="A_t2.nii.gz"):
        brats_rows(tmp_path, ["t2"], "even")

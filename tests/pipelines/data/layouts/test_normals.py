"""A folder of normal images and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.data.layouts import read_cohort
from transforms.errors import InputError


def test_it_is_never_recognised_by_itself(tmp_path: Path, touch: Any) -> None:
    touch(tmp_path, "a.png", "b.png")
    with pytest.raises(InputError, match="no layout fits(.|\n)*normals: normal PNG"):
        read_cohort(tmp_path)


def test_all_images_are_normal_and_undivided(tmp_path: Path, touch: Any) -> None:
    touch(tmp_path, "p1/a.png", "p1/b.png", "c.png")
    cohort = read_cohort(tmp_path, "normals")
    assert [(one.name, one.patient) for one in cohort.cases] == [
        ("a", "p1"),
        ("b", "p1"),
        ("c", "c"),
    ]
    assert {(one.label, one.split) for one in cohort.cases} == {(0, None)}
    assert not cohort.volumetric


def test_patients_are_found_as_in_other_folders(tmp_path: Path, touch: Any) -> None:
    touch(tmp_path, "IM-0001-0001.png", "NORMAL2-IM-0001-0002.png")
    assert {one.patient for one in read_cohort(tmp_path, "normals").cases} == {"IM-0001"}
    found = read_cohort(tmp_path, "normals", patient_pattern=r"(\d)\.?$").cases
    assert {one.patient for one in found} == {"1", "2"}


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'normals' found no case at all"):
        read_cohort(tmp_path, "normals")

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.data.layouts import find_anatomy, read_cohort
from pipelines.data.layouts.patients import kermany_patient
from transforms.errors import InputError


@pytest.fixture
def xray(tmp_path: Path, touch: Callable[..., None]) -> Path:
    base = tmp_path / "chest_xray"
    touch(base, "train/NORMAL/IM-0115-0001.jpeg", "train/NORMAL/NORMAL2-IM-0115-0001.jpeg")
    touch(base, "train/NORMAL/IM-0429-0001-0002.jpeg")
    touch(base, "train/PNEUMONIA/person1_bacteria_1.jpeg", "val/NORMAL/NORMAL2-IM-1427-0001.jpeg")
    touch(base, "test/NORMAL/IM-0001-0001.jpeg", "test/PNEUMONIA/person1_virus_6.jpeg")
    touch(tmp_path, "__MACOSX/chest_xray/train/NORMAL/._IM-0115-0001.jpeg")
    return tmp_path


def test_chest_xray(xray):
    cohort = read_cohort(xray)
    assert cohort.layout == "kermany" and "chest X-ray" in cohort.reason
    assert not cohort.volumetric
    assert {case.name: (case.patient, case.label, case.split) for case in cohort.cases} == {
        "IM-0115-0001": ("IM-0115", 0, "train"),
        "NORMAL2-IM-0115-0001": ("IM-0115", 0, "train"),
        "IM-0429-0001-0002": ("IM-0429", 0, "train"),
        "IM-0001-0001": ("IM-0001", 0, "test"),
        "person1_virus_6": ("person1", 1, "test"),
    }
    notes = " ".join(cohort.notes)
    assert "1 anomalous training image not used" in notes
    assert "1 image of val not used" in notes
    assert "sharpness" in notes


def test_root_itself_may_be_the_data_set(xray):
    assert read_cohort(xray / "chest_xray").counts["cases"] == 5


def test_oct_leaves_patients_of_the_test_out_of_training(tmp_path, touch):
    touch(tmp_path, "train/NORMAL/NORMAL-1-1.jpeg", "train/NORMAL/NORMAL-2-1.jpeg")
    touch(tmp_path, "train/NORMAL/NORMAL-2-2.jpeg", "train/CNV/CNV-3-1.jpeg")
    touch(tmp_path, "test/DME/DME-2-3.jpeg", "test/NORMAL/NORMAL-4-1.jpeg")
    touch(tmp_path, "test/CNV/CNV-1016042-1.jpeg", "test/DRUSEN/DRUSEN-4-9.jpeg")
    cohort = read_cohort(tmp_path)
    assert "OCT" in cohort.reason
    assert [case.name for case in cohort.cases if case.split == "train"] == ["NORMAL-1-1"]
    assert any(note.startswith("2 normal training images of 1 patient") for note in cohort.notes)
    assert not any("sharpness" in note for note in cohort.notes)
    assert {case.patient for case in cohort.cases if case.label == 1} == {"2", "4", "1016042"}


def test_missing_test_and_foreign_names_are_noted(xray, touch):
    for path in (xray / "chest_xray/test").rglob("*.jpeg"):
        path.unlink()
    touch(xray / "chest_xray", "train/NORMAL/strange.jpeg")
    notes = " ".join(read_cohort(xray).notes)
    assert "no test images" in notes and "1 file name of another form" in notes


def test_empty_training_class(xray):
    for path in (xray / "chest_xray/train/NORMAL").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"(?s)no normal training image.*NORMAL/ \(no files\)"):
        read_cohort(xray)


def test_two_data_sets_side_by_side(tmp_path, touch):
    touch(tmp_path, "chest_xray/train/NORMAL/IM-1-1.jpeg", "chest_xray/test/PNEUMONIA/x.jpeg")
    touch(tmp_path, "OCT/train/NORMAL/NORMAL-1-1.jpeg", "OCT/test/CNV/CNV-2-1.jpeg")
    with pytest.raises(InputError, match="expected one data set, found 2"):
        read_cohort(tmp_path)


def test_modalities_are_refused(xray):
    assert read_cohort(xray, modalities="image").modalities == ("image",)
    with pytest.raises(InputError, match="pictures, which have the one modality 'image'"):
        read_cohort(xray, modalities="flair")


@pytest.mark.parametrize(
    ("stem", "patient"),
    [
        ("IM-0115-0001", "IM-0115"),
        ("NORMAL2-IM-0115-0001", "IM-0115"),
        ("NORMAL2-IM-1094-0001-0002", "IM-1094"),
        ("person1000_bacteria_2931", "person1000"),
        ("CNV-1016042-1", "1016042"),
        ("NORMAL-1049278-0001", "1049278"),
        ("BACTERIA-1008087-0001", "1008087"),
        ("photo7", None),
    ],
)
def test_kermany_patient(stem, patient):
    assert kermany_patient(stem) == patient


def test_the_anatomy_of_x_rays_is_known(xray, tmp_path, touch):
    assert find_anatomy(xray) == find_anatomy(str(xray), "kermany") == "chest"
    touch(tmp_path / "oct", "train/NORMAL/NORMAL-1-1.jpeg", "train/CNV/CNV-3-1.jpeg")
    assert find_anatomy(tmp_path / "oct") is None
    touch(tmp_path / "own", "train/normal/a.png")
    assert find_anatomy(tmp_path / "own") is None and find_anatomy(None) is None
    assert find_anatomy(tmp_path / "nowhere") is None  # which reading the data tells
    assert find_anatomy(xray, "folder") is None

from pathlib import Path

import pytest

from pipelines.data.layouts import read_cohort
from pipelines.data.splits import split_cohort
from transforms.errors import InputError

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def write_part(root: Path, part: str, diagnoses: dict[str, str]) -> Path:
    images = root / f"ISIC2018_Task3_{part}_Input"
    images.mkdir(parents=True)
    table = root / f"ISIC2018_Task3_{part}_GroundTruth" / f"ISIC2018_Task3_{part}_GroundTruth.csv"
    table.parent.mkdir()
    lines = ["image," + ",".join(CLASSES)]
    for name, diagnosis in diagnoses.items():
        (images / f"{name}.jpg").touch()
        lines.append(f"{name}," + ",".join(str(float(diagnosis == c)) for c in CLASSES))
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture
def isic(tmp_path: Path) -> Path:
    write_part(
        tmp_path, "Training", {"ISIC_1": "NV", "ISIC_2": "NV", "ISIC_3": "MEL", "ISIC_4": "NV"}
    )
    write_part(tmp_path, "Validation", {"ISIC_5": "NV", "ISIC_6": "BKL"})
    write_part(tmp_path, "Test", {"ISIC_7": "NV", "ISIC_8": "DF", "ISIC_9": "VASC"})
    (tmp_path / "ISIC2018_Task3_Training_Input/ATTRIBUTION.txt").write_text("x" * 200)
    (tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv").write_text(
        "image,lesion_id,diagnosis_confirm_type\nISIC_1,HAM_1,x\nISIC_2,HAM_1,x\nISIC_3,HAM_3,x\n"
    )
    return tmp_path


def test_nevi_train_and_validation_tests(isic):
    cohort = read_cohort(isic)
    assert cohort.layout == "isic2018"
    assert {case.name: (case.patient, case.label, case.split) for case in cohort.cases} == {
        "ISIC_1": ("HAM_1", 0, "train"),
        "ISIC_2": ("HAM_1", 0, "train"),
        "ISIC_4": ("ISIC_4", 0, "train"),
        "ISIC_5": ("ISIC_5", 0, "test"),
        "ISIC_6": ("ISIC_6", 1, "test"),
    }
    notes = " ".join(cohort.notes)
    assert "1 anomalous training image not used" in notes
    assert "the part Validation of the challenge; Test is not used" in notes
    assert len(split_cohort(cohort).patients("train")) == 1


def test_the_test_part_can_be_chosen(isic):
    tested = [
        case.name for case in read_cohort(isic, test_part="Test").cases if case.split == "test"
    ]
    assert tested == ["ISIC_7", "ISIC_8", "ISIC_9"]
    with pytest.raises(InputError, match="test_part: expected one of Validation, Test"):
        read_cohort(isic, test_part="Holdout")


def test_without_lesions_each_image_is_a_patient(tmp_path):
    write_part(tmp_path, "Training", {"ISIC_1": "NV", "ISIC_2": "NV"})
    cohort = read_cohort(tmp_path)
    assert cohort.counts["patients"] == 2
    notes = " ".join(cohort.notes)
    assert "LesionGroupings.csv is not there" in notes and "no test images" in notes


def test_rows_and_images_without_each_other_are_noted(isic):
    (isic / "ISIC2018_Task3_Training_Input/ISIC_1.jpg").unlink()
    (isic / "ISIC2018_Task3_Training_Input/ISIC_0.jpg").touch()
    notes = " ".join(read_cohort(isic).notes)
    assert "Training: 1 row without an image" in notes
    assert "Training: 1 image without a diagnosis" in notes


def test_bad_tables(isic):
    table = isic / "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"
    good = table.read_text()
    table.write_text(good.replace("0.0,1.0", "0.0,0.5", 1))
    with pytest.raises(InputError, match="line 2: expected 1 in one of MEL"):
        read_cohort(isic)
    table.write_text(good.replace("NV", "nevus", 1))
    with pytest.raises(
        InputError, match="expected the columns image, MEL, NV.*found image, MEL, nevus"
    ):
        read_cohort(isic)
    table.unlink()
    with pytest.raises(InputError, match="no table in"):
        read_cohort(isic)


def test_no_nevus(tmp_path):
    write_part(tmp_path, "Training", {"ISIC_1": "MEL"})
    with pytest.raises(InputError, match="no training image .* is a nevus"):
        read_cohort(tmp_path)

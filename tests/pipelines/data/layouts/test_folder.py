import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.data.layouts import read_cohort
from pipelines.data.splits import split_cohort
from transforms.errors import InputError


def dicom(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * 128 + b"DICM")


@pytest.fixture
def pictures(tmp_path: Path, touch: Callable[..., None]) -> Path:
    touch(tmp_path, *(f"train/normal/t{i}.png" for i in range(5)))
    touch(tmp_path, "test/normal/n0.jpg", "test/anomalous/a0.tif", "test/anomalous/a1.tif")
    touch(tmp_path, "test/masks/a0.png")
    return tmp_path


def test_reads_pictures_with_labels_splits_and_masks(pictures):
    cohort = read_cohort(pictures)
    assert cohort.layout == "folder" and not cohort.volumetric
    assert cohort.modalities == ("image",)
    assert "train/normal" in cohort.reason
    by_name = {case.name: case for case in cohort.cases}
    assert [case.name for case in cohort.cases] == sorted(by_name)
    assert by_name["t0"].split == "train" and by_name["t0"].label == 0
    assert by_name["n0"].split == "test" and by_name["n0"].label == 0
    assert by_name["a0"].label == 1 and by_name["a0"].mask == pictures / "test/masks/a0.png"
    assert by_name["a1"].mask is None
    assert "1 anomalous test image without a mask." in cohort.notes
    assert cohort.counts["cases"] == 8
    assert cohort.counts["train/normal cases"] == 5
    assert cohort.counts["test/anomalous patients"] == 2


def test_calibration_folder_is_kept(pictures, touch):
    touch(pictures, "calibration/normal/c0.png")
    split = split_cohort(read_cohort(pictures))
    assert [case.name for case in split.calibration] == ["c0"]
    assert len(split.train) == 5


def test_nested_folders_are_patients_and_names_stay_unique(tmp_path, touch):
    touch(tmp_path, "train/normal/p1/scan.png", "train/normal/p2/scan.png")
    touch(tmp_path, "train/normal/p2/deeper/other.png", "test/anomalous/p3/scan.png")
    touch(tmp_path, "test/masks/p3/scan.png")
    cohort = read_cohort(tmp_path)
    assert {case.name: case.patient for case in cohort.cases} == {
        "train_normal_p1_scan": "p1",
        "train_normal_p2_scan": "p2",
        "test_anomalous_p3_scan": "p3",
        "other": "p2",
    }
    masked = [case for case in cohort.cases if case.mask]
    assert [case.patient for case in masked] == ["p3"]


def test_masks_of_equal_stems_go_by_folder(tmp_path, touch):
    touch(tmp_path, "train/normal/t.png")
    for patient in ("p1", "p2"):
        touch(tmp_path, f"test/anomalous/{patient}/x.png", f"test/masks/{patient}/x.png")
    masks = {case.patient: case.mask for case in read_cohort(tmp_path).cases if case.mask}
    assert masks == {p: tmp_path / f"test/masks/{p}/x.png" for p in ("p1", "p2")}


def test_same_stem_with_other_suffix_or_case_gets_its_own_name(tmp_path, touch):
    touch(tmp_path, "train/normal/a.png", "train/normal/a.jpg", "train/normal/A.tif")
    names = [case.name for case in read_cohort(tmp_path).cases]
    assert names == ["train_normal_A_tif", "train_normal_a_jpg", "train_normal_a_png"]


def test_kermany_stems_share_their_patient(tmp_path, touch):
    touch(tmp_path, "train/normal/IM-0115-0001.jpeg", "train/normal/NORMAL2-IM-0115-0001.jpeg")
    touch(tmp_path, "test/anomalous/person1_virus_7.jpeg")
    assert {case.patient for case in read_cohort(tmp_path).cases} == {"IM-0115", "person1"}


def test_kermany_rule_needs_every_stem(tmp_path, touch):
    touch(tmp_path, "train/normal/IM-0115-0001.jpeg", "train/normal/other.jpeg")
    assert {case.patient for case in read_cohort(tmp_path).cases} == {"IM-0115-0001", "other"}


def test_patient_pattern(tmp_path, touch):
    touch(tmp_path, "train/normal/x_p7_left.png", "train/normal/x_p7_right.png")
    cohort = read_cohort(tmp_path, patient_pattern=r"_(p\d+)_")
    assert {case.patient for case in cohort.cases} == {"p7"}
    with pytest.raises(InputError, match="finds no patient in 2 file names: x_p7_left"):
        read_cohort(tmp_path, patient_pattern=r"_(q\d+)_")
    with pytest.raises(InputError, match="patient_pattern: expected a regular expression"):
        read_cohort(tmp_path, patient_pattern="(")


def test_volumes_with_masks_are_decided_by_slice(tmp_path, touch):
    touch(tmp_path, "train/normal/v0.nii.gz", "train/normal/v1.nii")
    touch(tmp_path, "test/anomalous/v2.nii.gz", "test/anomalous/v3.nii.gz", "test/masks/v2.nii.gz")
    cohort = read_cohort(tmp_path)
    assert cohort.volumetric
    assert {case.name: case.label for case in cohort.cases} == {
        "v0": 0,
        "v1": 0,
        "v2": None,
        "v3": 1,
    }
    assert cohort.counts["test/masked cases"] == 1


def test_folders_of_dicom_files_are_one_case(tmp_path, touch):
    for name in ("1.2.840.1", "1.2.840.2"):
        dicom(tmp_path / "train/normal/p1/series" / name)
    touch(tmp_path, "train/normal/p2/a.dcm", "train/normal/p2/b.dcm", "train/normal/p2/DICOMDIR")
    cohort = read_cohort(tmp_path)
    assert cohort.volumetric
    assert {(case.patient, case.images) for case in cohort.cases} == {
        ("p1", (tmp_path / "train/normal/p1/series",)),
        ("p2", (tmp_path / "train/normal/p2",)),
    }


def test_dicom_files_in_the_class_folder_are_pictures(tmp_path, touch):
    touch(tmp_path, "train/normal/a.dcm", "train/normal/b.dcm")
    cohort = read_cohort(tmp_path)
    assert not cohort.volumetric and len(cohort.cases) == 2


def test_hidden_files_are_passed_over_and_others_noted(pictures, touch):
    touch(pictures, "train/normal/._t0.png", "train/normal/readme.txt", "__MACOSX/x.png")
    cohort = read_cohort(pictures)
    assert cohort.counts["train/normal cases"] == 5
    assert "1 left out: readme.txt (no image by its name and content)." in cohort.notes


def test_missing_test_is_allowed_with_notes(tmp_path, touch):
    touch(tmp_path, "train/normal/a.png")
    notes = read_cohort(tmp_path).notes
    assert "There are no normal test images (test/normal is missing or empty)." in notes
    assert "There are no anomalous test images (test/anomalous is missing or empty)." in notes


def test_no_training_image_names_what_was_found(tmp_path, touch):
    touch(tmp_path, "train/normal/a.bmp")
    with pytest.raises(InputError, match=r"(?s)holds no image.*normal/ \(1 \.bmp\)"):
        read_cohort(tmp_path)


def test_misspelt_class_folder(pictures, touch):
    touch(pictures, "test/anomolous/x.png")
    with pytest.raises(InputError, match="Did you mean 'anomalous'"):
        read_cohort(pictures)


def test_foreign_class_folder_and_anomalous_training_images_are_noted(pictures, touch):
    touch(pictures, "test/zebra/x.png", "train/anomalous/y.png")
    notes = " ".join(read_cohort(pictures).notes)
    assert "test/zebra is not used" in notes and "1 anomalous training image not used" in notes


def test_pictures_and_volumes_do_not_mix(pictures, touch):
    touch(pictures, "test/normal/v.nii.gz")
    with pytest.raises(InputError, match="found both"):
        read_cohort(pictures)


def test_masks_that_fit_no_image(pictures):
    (pictures / "test/masks/a0.png").rename(pictures / "test/masks/mask0.png")
    with pytest.raises(InputError, match="no mask fits an image.*a0.tif.*mask0.png"):
        read_cohort(pictures)


def test_masks_without_images_are_noted(pictures, touch):
    touch(pictures, "test/masks/zz.png")
    assert any("1 mask without an anomalous image" in note for note in read_cohort(pictures).notes)


def test_same_stem_in_train_and_test_is_refused_when_splitting(pictures, touch):
    touch(pictures, "test/normal/t0.png")
    with pytest.raises(InputError, match=r"t0 \(train and test\)"):
        split_cohort(read_cohort(pictures))


@pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="needs AEFLOW_DATA_DIR")
def test_real_xrays(tmp_path):
    xray = Path(os.environ["AEFLOW_DATA_DIR"]) / "xray"
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / "train/normal").symlink_to((xray / "train_normal").resolve())
    (tmp_path / "test/anomalous").symlink_to((xray / "val_pneumonia").resolve())
    cohort = read_cohort(tmp_path)
    assert cohort.counts["train/normal cases"] == 1341
    assert cohort.counts["train/normal patients"] == 1000
    assert cohort.counts["test/anomalous patients"] == 300
    split = split_cohort(cohort, seed=3)
    held_out = [case for case in split.test if case.label == 0]
    assert len({case.patient for case in held_out}) == 200
    assert len(split.patients("calibration")) == 200

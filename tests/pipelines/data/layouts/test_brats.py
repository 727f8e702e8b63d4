import json
import os
from pathlib import Path

import pytest

from pipelines.data.layouts import read_cohort
from pipelines.data.layouts.patients import brats_patient
from transforms.errors import InputError

OLD = ("flair", "t1", "t1ce", "t2", "seg")
NEW = ("t2f", "t1n", "t1c", "t2w", "seg")


def write_case(folder: Path, sep: str = "_", parts: tuple[str, ...] = OLD, suffix: str = ".nii.gz"):
    folder.mkdir(parents=True)
    for part in parts:
        (folder / f"{folder.name}{sep}{part}{suffix}").touch()


@pytest.mark.parametrize(
    ("folder", "sep", "parts", "suffix", "patient"),
    [
        ("HGG/Brats17_TCIA_105_1", "_", OLD, ".nii.gz", "Brats17_TCIA_105"),
        ("LGG/Brats18_X_1", "_", OLD, ".nii.gz", "Brats18_X"),
        (
            "Data/HGG/Brats18_2013_10_1",
            "_",
            OLD,
            ".nii",
            "Brats18_2013_10",
        ),
        ("BraTS20_Training_001", "_", OLD, ".nii", "BraTS20_Training_001"),
        ("BraTS2021_00000", "_", OLD, ".nii.gz", "BraTS2021_00000"),
        ("BraTS-GLI-00000-000", "-", NEW, ".nii.gz", "BraTS-GLI-00000"),
        ("BraTS-MET-00012-101", "-", NEW, ".nii.gz", "BraTS-MET-00012"),
        ("Phantom_00000", "_", OLD, ".nii.gz", "Phantom_00000"),
    ],
)
def test_naming_schemes(tmp_path, folder, sep, parts, suffix, patient):
    write_case(tmp_path / folder, sep, parts, suffix)
    cohort = read_cohort(tmp_path, modalities=["FLAIR", "t2", "t1gd"])
    assert cohort.layout == "brats" and cohort.volumetric
    assert cohort.modalities == ("flair", "t2", "t1ce")
    (case,) = cohort.cases
    stem = tmp_path / folder / case.name
    assert case.name == Path(folder).name and case.patient == patient
    named = [f"{stem}{sep}{parts[i]}{suffix}" for i in (0, 3, 2)]
    assert [str(path) for path in case.images] == named
    assert str(case.mask) == f"{stem}{sep}seg{suffix}"
    assert case.label is None and case.split is None and case.channels is None


def test_default_is_flair_with_both_warnings(tmp_path):
    write_case(tmp_path / "BraTS2021_00000")
    cohort = read_cohort(tmp_path)
    assert cohort.modalities == ("flair",)
    assert "The 'normal' slices come from patients with a tumour." in cohort.notes
    assert any("intensity" in note for note in cohort.notes)
    other = read_cohort(tmp_path, modalities="t2")
    assert "The 'normal' slices come from patients with a tumour." in other.notes
    assert not any("intensity" in note for note in other.notes)


def test_time_points_are_one_patient(tmp_path):
    for case in ("BraTS-GLI-00008-000", "BraTS-GLI-00008-001", "BraTS-GLI-00009-000"):
        write_case(tmp_path / case, "-", NEW)
    counts = read_cohort(tmp_path).counts
    assert (counts["cases"], counts["patients"]) == (3, 2)
    assert brats_patient("Brats18_TCIA02_370_1") == "Brats18_TCIA02_370"


def test_case_without_the_modality_is_left_out_with_a_note(tmp_path):
    write_case(tmp_path / "BraTS2021_00000")
    write_case(tmp_path / "BraTS2021_00001", parts=("flair", "seg"))
    cohort = read_cohort(tmp_path, modalities=("flair", "t2"))
    assert [case.name for case in cohort.cases] == ["BraTS2021_00000"]
    assert any("BraTS2021_00001 (t2); 1 case kept" in note for note in cohort.notes)


def test_modality_that_all_cases_lack(tmp_path):
    write_case(tmp_path / "BraTS2021_00000", parts=("flair", "seg"))
    with pytest.raises(InputError, match="BraTS2021_00000 lacks t2.*The cases have flair"):
        read_cohort(tmp_path, modalities="flair,t2")


@pytest.mark.parametrize(
    ("modalities", "message"),
    [("flare", "Did you mean 'flair'"), ("t1c,t1ce", "twice"), ("", "expected distinct names")],
)
def test_bad_modalities(tmp_path, modalities, message):
    write_case(tmp_path / "BraTS2021_00000")
    with pytest.raises(InputError, match=message):
        read_cohort(tmp_path, modalities=modalities)


def test_masks_missing_or_oddly_named(tmp_path):
    write_case(tmp_path / "BraTS20_Training_001", parts=("flair",))
    write_case(tmp_path / "BraTS20_Training_355", parts=("flair",))
    odd = tmp_path / "BraTS20_Training_355/W39_1998.09.19_Segm.nii"
    odd.touch()
    cohort = read_cohort(tmp_path)
    assert [case.mask for case in cohort.cases] == [None, odd]
    assert any(note.startswith("1 case without a mask") for note in cohort.notes)


def test_equally_named_cases_stay_apart(tmp_path):
    write_case(tmp_path / "a/BraTS2021_00000")
    write_case(tmp_path / "b/BraTS2021_00000")
    assert len({case.name for case in read_cohort(tmp_path).cases}) == 2


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    folder = tmp_path / "Task01_BrainTumour"
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    for name in ("imagesTr/BRATS_001", "labelsTr/BRATS_001", "imagesTs/BRATS_485"):
        (folder / f"{name}.nii.gz").touch()
    rows = [
        {"image": f"./imagesTr/BRATS_{i:03d}.nii.gz", "label": f"./labelsTr/BRATS_{i:03d}.nii.gz"}
        for i in (1, 2)
    ]
    content = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "training": rows,
        "test": ["./imagesTs/BRATS_485.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_decathlon(decathlon):
    cohort = read_cohort(decathlon.parent, modalities="t2,flair,t1ce")
    assert cohort.layout == "brats" and cohort.volumetric
    (case,) = cohort.cases
    assert case.name == "BRATS_001" and case.channels == (3, 0, 2)
    assert case.images == (decathlon / "imagesTr/BRATS_001.nii.gz",)
    assert case.mask == decathlon / "labelsTr/BRATS_001.nii.gz"
    assert any("BRATS_002.nii.gz" in note for note in cohort.notes)
    assert read_cohort(decathlon).cases[0].channels == (0,)


def test_decathlon_with_broken_or_other_json(decathlon):
    table = decathlon / "dataset.json"
    content = json.loads(table.read_text())
    table.write_text("{")
    with pytest.raises(InputError, match="dataset.json: expected JSON with"):
        read_cohort(decathlon)
    table.write_text(json.dumps({**content, "modality": {"0": "FLAIR"}}))
    with pytest.raises(InputError, match="lacks t2"):
        read_cohort(decathlon, modalities="t2")
    table.write_text(json.dumps({**content, "modality": {"0": "MRI"}}))
    with pytest.raises(InputError, match="no layout fits"):
        read_cohort(decathlon)


@pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="needs AEFLOW_DATA_DIR")
def test_real_brats():
    root = Path(os.environ["AEFLOW_DATA_DIR"]) / "brats"
    cohort = read_cohort(root, modalities="flair,t2,t1")
    assert (cohort.counts["cases"], cohort.counts["patients"]) == (12, 12)
    assert all(case.mask for case in cohort.cases)
    contrast = read_cohort(root, modalities="t1ce")
    assert contrast.counts["cases"] == 3
    assert any(note.startswith("9 cases left out for lack of") for note in contrast.notes)

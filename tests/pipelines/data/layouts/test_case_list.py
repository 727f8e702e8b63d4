from pathlib import Path

import pytest

from pipelines.data.layouts import read_cohort
from transforms.errors import InputError


def write(root: Path, table: str, *files: str, name: str = "cases.csv") -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    (root / name).write_text(table, encoding="utf-8-sig")
    return root / name


def test_reads_a_table_of_pictures(tmp_path):
    table = (
        "Path, patient ,label,mask,split,age\n"
        "img/a.png,p1,normal,,train,7\n"
        "img/b.png,p2,1,img/b_mask.png,test,8\n\n"
        "img/c.png,p3,,,,9\n"
    )
    write(tmp_path, table, "img/a.png", "img/b.png", "img/b_mask.png", "img/c.png")
    cohort = read_cohort(tmp_path)
    assert cohort.layout == "list" and not cohort.volumetric
    assert "cases.csv" in cohort.reason
    a, b, c = cohort.cases
    assert (a.name, a.patient, a.label, a.mask, a.split) == ("a", "p1", 0, None, "train")
    assert (b.label, b.mask, b.split) == (1, tmp_path / "img/b_mask.png", "test")
    assert (c.label, c.split) == (None, None)
    assert cohort.notes == ("1 case with neither label nor mask.",)


def test_the_csv_itself_may_be_given(tmp_path):
    path = write(tmp_path, "path,patient\na.png,p\n", "a.png", name="mine.csv")
    cohort = read_cohort(path)
    assert cohort.root == tmp_path and cohort.cases[0].images == (tmp_path / "a.png",)


def test_several_modalities(tmp_path):
    table = "path,patient,label,mask\nf.nii.gz;t.nii.gz,p1,anomalous,m.nii.gz\n"
    write(tmp_path, table, "f.nii.gz", "t.nii.gz", "m.nii.gz")
    cohort = read_cohort(tmp_path)
    assert cohort.volumetric and cohort.modalities == ("image_1", "image_2")
    assert cohort.cases[0].images == (tmp_path / "f.nii.gz", tmp_path / "t.nii.gz")
    assert cohort.cases[0].label is None, "the mask decides slice by slice"
    assert read_cohort(tmp_path, modalities=("flair", "t2")).modalities == ("flair", "t2")
    with pytest.raises(InputError, match="the rows name 2 files each"):
        read_cohort(tmp_path, modalities="flair")


def test_single_files_may_hold_several_channels(tmp_path):
    write(tmp_path, "path,patient\na.nii.gz,p\n", "a.nii.gz")
    assert read_cohort(tmp_path, modalities="flair,t2").modalities == ("flair", "t2")


def test_normal_volume_with_a_mask_stays_normal(tmp_path):
    write(tmp_path, "path,patient,label,mask\na.nii,p,0,m.nii\n", "a.nii", "m.nii")
    assert read_cohort(tmp_path).cases[0].label == 0


def test_dicom_series_as_a_folder(tmp_path):
    write(tmp_path, "path,patient,label\nseries,p,normal\n", "series/1.dcm")
    assert read_cohort(tmp_path).volumetric


def test_all_bad_rows_are_named_at_once(tmp_path):
    table = (
        "path,patient,label,mask,split\n"
        "a.png,p1,normal,,train\n"
        "gone.png,p1,normal,,train\n"
        "b.png,,sick,,holdout\n"
        "b.png,p2,anomalous,,train\n"
        "a.png,p1,normal,,train\n"
        ",p9\n"
        "b.png,p3,,,calibration,x,y\n"
        "b.csv,p3,0,,\n"
        "a.png;b.png,p4,0,,\n"
        "v.nii,p5,0,,\n"
    )
    write(tmp_path, table, "a.png", "b.png", "b.csv", "v.nii")
    with pytest.raises(InputError) as caught:
        read_cohort(tmp_path)
    message = str(caught.value)
    for part in (
        "9 problems",
        "line 3: " + str(tmp_path / "gone.png") + " does not exist",
        "line 4: patient is empty; label is 'sick'",
        "split is 'holdout'",
        "line 5: a case in train must be labelled normal",
        "line 6: a.png stands already in line 2",
        "line 7: path is empty",
        "line 8: more values than columns (x; y); a case in calibration must",
        "line 9: " + str(tmp_path / "b.csv") + " is no PNG",
        "line 10: 2 files, expected 1 as in line 2",
        "line 11: mixes pictures with volumes",
    ):
        assert part in message
    assert "line 2:" not in message


def test_many_problems_are_cut_short(tmp_path):
    write(tmp_path, "path,patient\n" + "gone.png,p\n" * 30)
    with pytest.raises(InputError, match=r"30 problems.*(?s:.*)and 10 more"):
        read_cohort(tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a.png,p1\n", "expected a header"),
        ("", "found nothing"),
        ("path;patient\na.png;p1\n", "comma between"),
        ("path,patient,lable\na.png,p1,0\n", "For 'lable': Did you mean 'label'"),
        ("path,patient,path\n", "expected a header"),
        ("path,patient\n", "only the header"),
    ],
)
def test_bad_headers(tmp_path, table, message):
    write(tmp_path, table, "a.png")
    with pytest.raises(InputError, match=message):
        read_cohort(tmp_path)


def test_table_in_another_encoding(tmp_path):
    (tmp_path / "cases.csv").write_bytes("path,patient\nMüller.png,p\n".encode("latin-1"))
    with pytest.raises(InputError, match="expected a CSV table in UTF-8"):
        read_cohort(tmp_path)


def test_a_region_may_be_drawn(tmp_path):
    table = "path,patient,label,region\na.png,p1,normal,where/a.png\nb.png,p2,normal,\n"
    write(tmp_path, table, "a.png", "b.png", "where/a.png")
    a, b = read_cohort(tmp_path).cases
    assert (a.region, b.region, a.mask) == (tmp_path / "where/a.png", None, None)
    (tmp_path / "where/a.png").unlink()
    with pytest.raises(InputError, match="line 2: .*where/a.png does not exist"):
        read_cohort(tmp_path)

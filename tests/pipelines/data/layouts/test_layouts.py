import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.data.cases import Case
from pipelines.data.layouts import make_cohort, read_cohort, register
from pipelines.data.layouts.base import LAYOUTS
from pipelines.data.layouts.files import describe_tree, stem_of
from transforms.errors import InputError

ROOT = Path(__file__).parents[4]


@pytest.fixture
def example() -> str:
    """The layout that CONTRIBUTING.md prints."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Adding a data layout")[1]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]


@pytest.fixture
def flat(example):
    namespace = {}
    exec(example, namespace)
    yield namespace["FlatLayout"]
    del LAYOUTS["flat"]


def test_a_layout_of_the_users_own(tmp_path, flat, touch):
    touch(tmp_path, "FLAT", "a_1.png", "a_2.png", "b_1.png")
    for layout in ("auto", "flat"):
        cohort = read_cohort(tmp_path, layout)
        assert cohort.layout == "flat" and cohort.reason == "it holds the file FLAT"
        assert cohort.counts["cases"] == 3 and cohort.counts["patients"] == 2


def test_a_layout_takes_one_file_and_its_name(tmp_path, example, touch):
    for room in ("networks", "transforms", "pipelines"):
        shutil.copytree(ROOT / room, tmp_path / room)
    folder = tmp_path / "pipelines" / "data" / "layouts"
    (folder / "flat.py").write_text(example)
    reading = (folder / "reading.py").read_text()
    named = reading.replace("    folder,\n", "    flat,\n    folder,\n", 1)
    assert named != reading
    (folder / "reading.py").write_text(named)
    touch(tmp_path / "data", "FLAT", "a_1.png")
    code = "from pipelines.data.layouts import read_cohort; print(read_cohort('data').layout)"
    told = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True)
    assert told == "flat\n"


def test_names_are_registered_once(flat):
    with pytest.raises(ValueError, match="taken"):
        register("flat")(flat)


def test_no_layout_fits(tmp_path, touch):
    touch(tmp_path, "train/good/a.png", "train/good/b.png", "notes.txt")
    with pytest.raises(InputError) as caught:
        read_cohort(tmp_path)
    message = str(caught.value)
    assert "no layout fits" in message and "good/ (2 .png)" in message and "1 .txt" in message
    for name in LAYOUTS:
        assert f"{name}: {LAYOUTS[name].expects}" in message


def test_several_layouts_fit(tmp_path, touch):
    touch(tmp_path, "train/normal/a.png", "cases.csv")
    with pytest.raises(InputError) as caught:
        read_cohort(tmp_path)
    message = str(caught.value)
    assert "several layouts fit" in message
    assert "folder: it holds" in message and "list: cases.csv" in message
    assert "isic2018" not in message
    assert read_cohort(tmp_path, "folder").layout == "folder"


def test_unknown_layout_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match="found 'kermanny'. Did you mean 'kermany'"):
        read_cohort(tmp_path, "kermanny")


def test_named_layout_that_does_not_fit(tmp_path, touch):
    touch(tmp_path, "scans/a.png")
    with pytest.raises(InputError, match=r"(?s)not have the layout 'brats'.*scans/ \(1 \.png\)"):
        read_cohort(tmp_path, "brats")


def test_missing_folder_and_wrong_file(tmp_path, touch):
    touch(tmp_path, "data/x.zip")
    with pytest.raises(InputError, match=r"(?s)does not exist; the nearest.*data/"):
        read_cohort(tmp_path / "dta/deep")
    with pytest.raises(InputError, match="expected a folder or a .csv file"):
        read_cohort(tmp_path / "data/x.zip")


def test_unknown_option(tmp_path, touch):
    touch(tmp_path, "train/normal/a.png")
    with pytest.raises(InputError, match="patient_patern: .*Did you mean 'patient_pattern'"):
        read_cohort(tmp_path, patient_patern="x")
    assert read_cohort(tmp_path, patient_pattern=None, test_part=None).layout == "folder"


def test_a_layout_without_cases_is_an_error(tmp_path):
    with pytest.raises(InputError, match="found no case at all"):
        make_cohort("mine", tmp_path, [], ("image",), False)


def test_cases_are_sorted_by_name(tmp_path):
    cases = [Case(name, "p", (tmp_path / name,)) for name in ("b", "ccc", "aa")]
    cohort = make_cohort("mine", tmp_path, cases, ("image",), False)
    assert [case.name for case in cohort.cases] == ["aa", "b", "ccc"]


def test_case_names_can_be_file_names(tmp_path):
    case = Case("a/b c:ü", "p", (tmp_path / "x.png",))
    assert make_cohort("mine", tmp_path, [case], ("image",), False).cases[0].name == "a_b_c_ü"


def test_names_of_files_elsewhere_carry_no_long_paths(tmp_path):
    images = [tmp_path / "far/off" / side / "scan.png" for side in "ab"]
    cases = [Case("scan", str(i), (path,)) for i, path in enumerate(images)]
    cohort = make_cohort("mine", tmp_path / "here", cases, ("image",), False)
    assert [case.name for case in cohort.cases] == ["off_a_scan", "off_b_scan"]


def test_tree_is_short(tmp_path, touch):
    touch(tmp_path, *(f"p{i:02d}/x.nii.gz" for i in range(20)))
    lines = describe_tree(tmp_path).splitlines()
    assert len(lines) == 10 and lines[-1].endswith("... and 12 more folders")
    (tmp_path / "void").mkdir()
    assert describe_tree(tmp_path / "void") == "  void/ (empty)"


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.nii.gz", "a"), ("b.NII", "b"), ("c.d.png", "c.d"), ("1.2.840", "1.2.840")],
)
def test_stems(name, stem):
    assert stem_of(Path(name)) == stem

from pathlib import Path

import pytest

from pipelines.data.cases import Case, Cohort
from pipelines.data.layouts import LAYOUTS, Layout, make_cohort, read_cohort, register
from pipelines.data.layouts.files import describe_tree, stem_of
from transforms.errors import InputError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def flat():
    @register("flat")
    class FlatLayout(Layout):
        expects = "PNG files in a folder with the file FLAT"

        def recognise(self, root: Path) -> str | None:
            return "it holds the file FLAT" if (root / "FLAT").is_file() else None

        def read(self, root: Path, modalities: tuple[str, ...] | None) -> Cohort:
            cases = [Case(p.stem, p.stem[0], (p,), label=0) for p in root.glob("*.png")]
            return make_cohort(self.name, root, cases, modalities or ("image",), False)

    yield FlatLayout
    del LAYOUTS["flat"]


def test_a_layout_of_the_users_own(tmp_path, flat):
    touch(tmp_path, "FLAT", "a1.png", "a2.png", "b1.png")
    for layout in ("auto", "flat"):
        cohort = read_cohort(tmp_path, layout)
        assert cohort.layout == "flat" and cohort.reason == "it holds the file FLAT"
        assert cohort.counts["cases"] == 3 and cohort.counts["patients"] == 2


def test_names_are_registered_once(flat):
    with pytest.raises(ValueError, match="taken"):
        register("flat")(flat)


def test_no_layout_fits(tmp_path):
    touch(tmp_path, "train/good/a.png", "train/good/b.png", "notes.txt")
    with pytest.raises(InputError) as caught:
        read_cohort(tmp_path)
    message = str(caught.value)
    assert "no layout fits" in message and "good/ (2 .png)" in message and "1 .txt" in message
    for name in LAYOUTS:
        assert f"{name}: {LAYOUTS[name].expects}" in message


def test_several_layouts_fit(tmp_path):
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


def test_named_layout_that_does_not_fit(tmp_path):
    touch(tmp_path, "scans/a.png")
    with pytest.raises(InputError, match=r"(?s)not have the layout 'brats'.*scans/ \(1 \.png\)"):
        read_cohort(tmp_path, "brats")


def test_missing_folder_and_wrong_file(tmp_path):
    touch(tmp_path, "data/x.zip")
    with pytest.raises(InputError, match=r"(?s)does not exist; the nearest.*data/"):
        read_cohort(tmp_path / "dta/deep")
    with pytest.raises(InputError, match="expected a folder or a .csv file"):
        read_cohort(tmp_path / "data/x.zip")


def test_unknown_option(tmp_path):
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


def test_tree_is_short(tmp_path):
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

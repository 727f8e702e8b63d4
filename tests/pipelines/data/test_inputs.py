"""What is to be scored."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.data import inputs
from pipelines.data.cases import Case
from pipelines.data.inputs import _safe, _unique, find_inputs
from transforms.errors import InputError

WriteVolume = Callable[..., Path]
VOLUMES = {"modalities": ["flair"], "volumetric": True}
PICTURES = {"modalities": ["image"], "volumetric": False}
SEVERAL = {"modalities": ["flair", "t2"], "volumetric": True}


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    return path


def dicom(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM")
    return path


def names(model: dict[str, Any], path: Path) -> list[str]:
    cases = find_inputs(model, str(path)).cases
    assert all(case.label is None and case.mask is None for case in cases)
    assert all(case.split is None for case in cases)
    return [case.name for case in cases]


def test_a_file_is_one_image(write_volume: WriteVolume) -> None:
    path = write_volume("scan 1.5T")
    (case,) = find_inputs(VOLUMES, str(path)).cases
    assert case == Case("scan_1.5T", "scan_1.5T", (path,))


def test_home_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    picture(tmp_path / "a.png")
    assert names(PICTURES, Path("~/a.png")) == ["a"]


def test_a_folder_of_slices_is_one_volume(tmp_path: Path) -> None:
    series = tmp_path / "series 1"
    for number in range(3):
        dicom(series / f"{number}.dcm")
    (case,) = find_inputs(VOLUMES, str(series)).cases
    assert case.name == "series_1" and case.images == (series,)
    assert names(PICTURES, series) == ["0", "1", "2"]  # radiographs are one image each


def test_the_folder_at_hand_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dicom(tmp_path / "series 1" / "1.dcm")
    monkeypatch.chdir(tmp_path / "series 1")
    assert names(VOLUMES, Path(".")) == ["series_1"]


def test_one_of_several_series_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (case,) = find_inputs(VOLUMES, str(tmp_path / "study"), series_uid="1.2.3").cases
    assert case.series_uid == "1.2.3" and case.images == (tmp_path / "study",)


def test_all_series_that_can_be_read_are_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def series(number: int | None, uid: str, problem: str = "") -> SimpleNamespace:
        path = tmp_path / uid
        return SimpleNamespace(number=number, uid=uid, path=path, files=(path,), problem=problem)

    found = [series(2, "1.2"), series(3, "1.3", "gaps"), series(2, "1.4"), series(None, "1.5")]
    monkeypatch.setattr(inputs, "list_series", lambda root, recursive: found)
    study = tmp_path / "study 7"
    study.mkdir()
    found_there = find_inputs(VOLUMES, str(study), all_series=True)
    cases = found_there.cases
    assert [case.series_uid for case in cases] == ["1.2", "1.4", "1.5"]
    assert len({case.name for case in cases}) == 3 and cases[2].name == "study_7_000"
    assert all("study_7_002" in case.name for case in cases[:2])
    (left,) = found_there.left_out
    assert left.name == "../1.3" and left.reason.endswith(": gaps") and ": gaps" in caplog.text
    del found[2:], found[0]
    with pytest.raises(InputError, match="no DICOM series that can be read"):
        find_inputs(VOLUMES, str(study), all_series=True)


def test_a_tree_is_searched(tmp_path: Path, write_volume: WriteVolume) -> None:
    write_volume("b/two")
    write_volume("a/one")
    dicom(tmp_path / "c" / "series" / "1.dcm")
    dicom(tmp_path / "c" / "series" / "2.dcm")
    found = find_inputs(VOLUMES, str(tmp_path)).cases
    assert [case.name for case in found] == ["one", "two", "series"]
    assert found[2].images == (tmp_path / "c" / "series",)


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.png", "y/b.png", "y/b.jpg", "z/a b.png", "z/a_b.png", "c.png"):
        picture(tmp_path / name)
    found = find_inputs(PICTURES, str(tmp_path)).cases
    told = {case.name: case.images[0].relative_to(tmp_path).as_posix() for case in found}
    assert told == {
        "x_a": "x/a.png",
        "y_a": "y/a.png",
        "jpg_y_b": "y/b.jpg",
        "png_y_b": "y/b.png",
        "png_z_a_b": "z/a b.png",
        "png_z_a_b_2": "z/a_b.png",
        "c": "c.png",
    }
    assert len({case.patient for case in found}) == 7


def test_hidden_files_are_left_alone(tmp_path: Path) -> None:
    for name in (".a.png", "._b.png", ".hidden/c.png", "__MACOSX/d.png", "e.png", "notes/f.png"):
        picture(tmp_path / name)
    (tmp_path / "readme.txt").write_text("no image")
    assert names(PICTURES, tmp_path) == ["e", "f"]


def test_each_modality_is_a_file(tmp_path: Path, write_volume: WriteVolume) -> None:
    for case in ("p1", "p2"):
        for modality in ("t2", "flair", "t1", "seg"):
            write_volume(f"{case}/{case}_{modality}")
    found = find_inputs(SEVERAL, str(tmp_path)).cases
    assert [case.name for case in found] == ["p1", "p2"]
    assert [path.name for path in found[0].images] == ["p1_flair.nii.gz", "p1_t2.nii.gz"]
    assert names(SEVERAL, tmp_path / "p1") == ["p1"]
    single = find_inputs(VOLUMES, str(tmp_path)).cases
    assert [[path.name for path in case.images] for case in single] == [
        ["p1_flair.nii.gz"],
        ["p2_flair.nii.gz"],
    ]
    assert names(VOLUMES, tmp_path) == ["p1", "p2"]


def test_one_file_may_hold_all_modalities(write_volume: WriteVolume) -> None:
    path = write_volume("both", np.ones((4, 4, 4, 2), np.float32))
    assert names(SEVERAL, path) == ["both"]


def test_modalities_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, write_volume: WriteVolume
) -> None:
    write_volume("in/one")
    with pytest.raises(InputError, match=r"reads flair, t2, .*case1/case1_flair\.nii\.gz"):
        find_inputs(SEVERAL, str(tmp_path / "in"))
    other = {"modalities": ["red", "green"], "volumetric": True}
    with pytest.raises(InputError, match="reads red, green"):
        find_inputs(other, str(tmp_path / "in"))


def left_out(model: dict[str, Any], path: Path, **options: Any) -> dict[str, str]:
    return {one.name: one.reason for one in find_inputs(model, str(path), **options).left_out}


def test_a_mixed_folder_is_sorted_by_file(
    tmp_path: Path, write_volume: WriteVolume, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "in"
    for name in ("in/one", "in/two", "in/deep/three"):
        write_volume(name)
    for name in ("x.dcm", "y", "deep/z.dcm"):
        dicom(folder / name)
    (folder / "readme.txt").write_text("no image")
    found = find_inputs(VOLUMES, str(folder))
    images = {case.name: case.images[0].relative_to(tmp_path).as_posix() for case in found.cases}
    assert images == {
        "in": "in",
        "deep": "in/deep",
        "three": "in/deep/three.nii.gz",
        "one": "in/one.nii.gz",
        "two": "in/two.nii.gz",
    }
    assert left_out(VOLUMES, folder) == {"readme.txt": "no image by its name and content."}
    assert "readme.txt: no image by its name and content." in caplog.text


def test_what_is_not_named_after_a_modality_is_told_or_scored(
    tmp_path: Path, write_volume: WriteVolume
) -> None:
    for name in ("p1/p1_flair", "p1/p1_t2", "p1/more/x", "p2/p2_flair", "loose", "other/scan"):
        write_volume(f"in/{name}")
    found = find_inputs(VOLUMES, str(tmp_path / "in"))
    assert [case.name for case in found.cases] == ["p1", "p2", "loose", "scan"]
    beside = left_out(VOLUMES, tmp_path / "in")
    assert beside.keys() == {"p1/p1_t2.nii.gz", "p1/more/x.nii.gz"}
    assert "the model reads flair" in beside["p1/p1_t2.nii.gz"]
    several = left_out(SEVERAL, tmp_path / "in")
    assert names(SEVERAL, tmp_path / "in") == ["p1"]
    assert several.keys() == {
        "p1/more/x.nii.gz", "p2/p2_flair.nii.gz", "loose.nii.gz", "other/scan.nii.gz"
    }  # fmt: skip


def test_a_file_of_another_modality_is_not_scored_as_this_one(
    tmp_path: Path, write_volume: WriteVolume
) -> None:
    write_volume("in/p1/p1_t1")
    with pytest.raises(InputError, match=r"(?s)holds no image.*p1_t1.*the model reads flair"):
        find_inputs(VOLUMES, str(tmp_path / "in"))
    write_volume("in/scan")
    assert names(VOLUMES, tmp_path / "in") == ["scan"]


def test_the_rest_of_a_decathlon_is_no_input(tmp_path: Path, write_volume: WriteVolume) -> None:
    write_volume("in/imagesTr/a", np.ones((4, 4, 4, 2), np.float32))
    write_volume("in/labelsTr/a")
    (tmp_path / "in" / "dataset.json").write_text(
        '{"modality": {"0": "FLAIR"}, "training": [{"image": "imagesTr/a.nii.gz", "label": "x"}]}'
    )
    assert names(VOLUMES, tmp_path / "in") == ["a"]
    assert "labelsTr/a.nii.gz" in left_out(VOLUMES, tmp_path / "in")


def test_files_that_are_no_series_are_told(tmp_path: Path, write_volume: WriteVolume) -> None:
    write_volume("in/scan")
    dicom(tmp_path / "in" / "x.dcm")
    with pytest.raises(InputError, match=r"(?s)no DICOM series.*x\.dcm: .*scan\.nii\.gz: no DICOM"):
        find_inputs(VOLUMES, str(tmp_path / "in"), all_series=True)


def test_a_name_too_long_for_a_suffix_is_left_out(tmp_path: Path) -> None:
    picture(tmp_path / f"{'n' * 240}.png")
    picture(tmp_path / "a.png")
    assert names(PICTURES, tmp_path) == ["a"]
    assert "too long" in left_out(PICTURES, tmp_path)[f"{'n' * 240}.png"]


def test_many_left_out_are_told_shortly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(tmp_path / "a.png")
    for number in range(30):
        (tmp_path / f"{number:02d}.txt").touch()
    assert len(find_inputs(PICTURES, str(tmp_path)).left_out) == 30
    assert "19.txt" in caplog.text and "20.txt" not in caplog.text and "10 more" in caplog.text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pipe", "pipe: expected a file or a folder, found a named pipe"),
        ("round", "round cannot be reached .*symbolic links"),
        ("n" * 300, "cannot be reached .File name too long"),
        ("no\0name", "does not exist"),
        ("cafe\udce9.png", "no UTF-8"),
    ],
)
def test_an_input_that_is_no_file_is_told(tmp_path: Path, name: str, said: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "cafe\udce9.png").touch()
    with pytest.raises(InputError, match=said):
        find_inputs(PICTURES, str(tmp_path / name))


def test_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    for path, said in (
        (None, "name the image or the folder to score with --input"),
        ("", "--input"),
        (str(tmp_path / "nowhere"), "nowhere does not exist"),
        (str(tmp_path / "empty"), "empty holds no image. Expected NIfTI"),
    ):
        with pytest.raises(InputError, match=said):
            find_inputs(VOLUMES, path)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a b", "a_b"),
        ("..", "image"),
        (".hidden", "hidden"),
        ("../../etc/passwd", "etc_passwd"),
        ("a/b\\c:d*e?f", "a_b_c_d_e_f"),
        ("=1+1", "1_1"),
        ("Müller-漢字_1.2", "Müller-漢字_1.2"),
        ("a\nb;$(rm)", "a_b___rm"),
        ("", "image"),
    ],
)
def test_names_are_safe(name: str, safe: str) -> None:
    assert _safe(name) == safe


@given(st.text(max_size=30))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_any_name_is_safe(name: str) -> None:
    safe = _safe(name)
    assert safe and safe not in (".", "..") and not safe.startswith((".", "="))
    assert not set(safe) & set("/\\:*?\"<>| \n\t\0;$&'`")


@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("ab"), st.sampled_from(
    [".png", ".jpg"])), unique=True, max_size=8))  # fmt: skip
@settings(deadline=None, derandomize=True)
def test_names_are_unique(parts: list[tuple[str, str, str]]) -> None:
    paths = [Path(folder) / f"{stem}{suffix}" for folder, stem, suffix in parts]
    found = _unique([path.stem for path in paths], paths)
    assert len(set(found)) == len(paths)

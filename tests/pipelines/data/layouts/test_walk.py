"""Folders with things in them that are no images, or no files at all."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.data.layouts import read_cohort
from pipelines.data.layouts.files import describe_tree, folders_to_depth, subfolders
from pipelines.data.layouts.walk import find_images, list_images
from transforms.dicom.series import dicom_paths

DICOM = bytes(128) + b"DICM"


@pytest.fixture(autouse=True)
def _short_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # a socket's address must be short
    yield


def told(folder: Path, series: bool = False) -> dict[str, str]:
    return {one.name: one.reason for one in list_images(folder, series).left_out}


def make_special(folder: Path) -> None:
    """One of everything that is no file with an image in it."""
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.nii.gz")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str((folder / "socket.dcm").relative_to(Path.cwd())))
    (folder / "device.png").symlink_to("/dev/null")
    (folder / "gone.nii.gz").symlink_to("nowhere.nii.gz")
    (folder / "round.png").symlink_to("round.png")
    (folder / "loop").symlink_to(".")
    (folder / "up").symlink_to("..")
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))).touch()
    (folder / "readme.txt").write_text("text")
    (folder / "DICOMDIR").write_bytes(DICOM)


SPECIAL = {
    "pipe": "a named pipe",
    "pipe.nii.gz": "a named pipe",
    "socket.dcm": "a socket",
    "device.png": "a device",
    "gone.nii.gz": "a link to nothing",
    "round.png": "a link to itself",
    "loop": "a link to a folder that is searched anyway",
    "up": "a link to a folder that is searched anyway",
    "caf\\udce9.png": "no UTF-8",
    "readme.txt": "no image",
    "DICOMDIR": "a DICOMDIR",
}


def test_what_is_no_image_is_left_out_by_name(tmp_path: Path) -> None:
    make_special(tmp_path / "in")
    (tmp_path / "in" / "a.png").touch()
    (tmp_path / "in" / "b").mkdir()
    (tmp_path / "in" / "b" / "c.nii").touch()
    found = list_images(tmp_path / "in")
    assert [path.name for path in found.images] == ["a.png", "c.nii"]
    assert find_images(tmp_path / "in") == found.images
    reasons = told(tmp_path / "in")
    assert reasons.keys() == SPECIAL.keys()
    for name, reason in SPECIAL.items():
        assert reason in reasons[name], name


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / "in" / one).mkdir(parents=True)
        (tmp_path / "in" / one / f"{one}.nii").touch()
        (tmp_path / "in" / one / "link").symlink_to(f"../{other}")
    assert [path.name for path in list_images(tmp_path / "in").images] == ["a.nii", "b.nii"]


def test_links_to_images_elsewhere_are_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "store"
    (elsewhere / "p1").mkdir(parents=True)
    (elsewhere / "p1" / "x.png").touch()
    (elsewhere / "p1" / "back").symlink_to(tmp_path / "in")
    (elsewhere / "p1" / "round").symlink_to(elsewhere)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p1").symlink_to(elsewhere / "p1")
    (tmp_path / "in" / "y.png").symlink_to(elsewhere / "p1" / "x.png")
    found = list_images(tmp_path / "in")
    assert [str(path.relative_to(tmp_path / "in")) for path in found.images] == [
        "p1/x.png",
        "y.png",
    ]
    assert {one.name for one in found.left_out} == {"p1/back", "p1/round"}


def test_folders_too_deep_are_told(tmp_path: Path) -> None:
    deepest = tmp_path.joinpath("in", *"abcdefgh")
    (deepest / "i").mkdir(parents=True)
    (deepest / "i" / "far.png").touch()
    (deepest / "near.png").touch()
    assert [path.name for path in list_images(tmp_path / "in").images] == ["near.png"]
    assert told(tmp_path / "in") == {"a/b/c/d/e/f/g/h/i": "a folder more than 8 levels down."}


def test_what_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "closed").mkdir(parents=True)
    (tmp_path / "in" / "secret").touch()
    (tmp_path / "in" / "a.png").touch()
    scan, read = os.scandir, Path.open

    def refuse_folder(folder: Path) -> object:
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    def refuse_file(path: Path, *args: object) -> object:
        if path.name == "secret":
            raise PermissionError(13, "Permission denied")
        return read(path, *args)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse_folder)
    monkeypatch.setattr(Path, "open", refuse_file)
    assert told(tmp_path / "in") == {
        "closed": "it cannot be read (Permission denied).",
        "secret": "it cannot be read (Permission denied).",
    }


@pytest.mark.parametrize("series", [False, True])
def test_a_mixed_folder_is_sorted_by_file(tmp_path: Path, series: bool) -> None:
    for name in ("1.dcm", "2.dcm", "sub/3.dcm", "sub/4"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(DICOM)
    (tmp_path / "in" / "a.nii.gz").touch()
    (tmp_path / "in" / "sub" / "b.nii.gz").touch()
    found = [path.relative_to(tmp_path).as_posix() for path in
             list_images(tmp_path / "in", series).images]  # fmt: skip
    here = ["in"] if series else ["in/1.dcm", "in/2.dcm"]
    assert sorted(found) == sorted([*here, "in/a.nii.gz", "in/sub", "in/sub/b.nii.gz"])


def test_layouts_see_past_what_is_no_file(tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_special(root / "train" / "normal")
    make_special(root)
    (root / "train" / "normal" / "a.png").touch()
    (root / "train" / "normal" / "p" / "q").mkdir(parents=True)
    (root / "train" / "normal" / "p" / "notes.doc").touch()
    assert set(subfolders(root)) == {"train"}
    assert sum(map(len, folders_to_depth(root, 3))) == 4
    assert "train/" in describe_tree(root)
    cohort = read_cohort(root)
    assert [case.name for case in cohort.cases] == ["a"]
    (note,) = [one for one in cohort.notes if "left out" in one]
    assert note.startswith("12 left out: DICOMDIR (a DICOMDIR")


def test_a_name_too_long_for_what_is_added_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "normal"
    folder.mkdir(parents=True)
    (folder / f"{'n' * 240}.png").touch()
    (folder / "a.png").touch()
    cohort = read_cohort(tmp_path)
    assert [case.name for case in cohort.cases] == ["a"]
    assert any("nnn" in note and "too long" in note for note in cohort.notes)


def test_a_series_is_not_read_again_through_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    make_special(folder)
    (folder / "1").write_bytes(DICOM)
    assert [path.name for path in dicom_paths(folder, recursive=True)] == ["1"]

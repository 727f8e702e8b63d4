import shutil

import numpy as np
import pytest

from transforms.dicom import holds_dicom, list_series, read_dicom
from transforms.errors import InputError
from transforms.readers import read_image

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
REPORT = "1.2.840.10008.5.1.4.1.1.88.11"
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
DESCRIPTION = "Jane Doe's head"


@pytest.fixture
def volumes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        uid: rng.integers(0, 900, (4, 5, count)).astype(np.int16)
        for uid, count in (("1.2.1", 3), ("1.2.2", 4))
    }


@pytest.fixture
def export(tmp_path, save_volume, save_dicom, volumes):
    """A PACS export: DICOM/<number>/<number>/IM0001, a series spread over two folders."""
    for number, (uid, stored) in enumerate(volumes.items()):
        save_volume(
            tmp_path / "DICOM" / f"{number}",
            stored,
            AFFINE,
            SeriesInstanceUID=uid,
            SeriesNumber=7 - number,
            SeriesDescription=DESCRIPTION,
        )
    moved = sorted((tmp_path / "DICOM" / "1").iterdir())[:2]
    (tmp_path / "DICOM" / "1b" / "deep").mkdir(parents=True)
    for path in moved:
        shutil.move(path, tmp_path / "DICOM" / "1b" / "deep")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "DICOM" / "readme.txt").write_text("not an image")
    return tmp_path


def save_others(save_dicom, folder):
    pixels = np.zeros((4, 4), np.uint8)
    save_dicom(
        folder / "seg.dcm", pixels, SOPClassUID=SEGMENTATION, SeriesInstanceUID="9", Modality="SEG"
    )
    nothing = dict.fromkeys(("Rows", "Columns", "PixelData"))
    save_dicom(
        folder / "sr.dcm",
        pixels,
        SOPClassUID=REPORT,
        SeriesInstanceUID="8",
        Modality="SR",
        **nothing,
    )


class TestList:
    def test_series_of_a_tree(self, export, volumes):
        assert list_series(export) == []
        second, first = list_series(export, recursive=True)  # by their numbers, 6 and 7
        assert (first.uid, first.modality, first.number, first.count) == ("1.2.1", "MR", 7, 3)
        assert first.shape == (4, 5, 3) and first.problem == ""
        assert second.shape == (4, 5, 4)
        assert first.path == export / "DICOM" / "0"
        assert second.path == export / "DICOM"
        for info in (first, second):
            image = read_image(info.path, series_uid=info.uid)
            np.testing.assert_array_equal(image.numpy()[0], volumes[info.uid])
        assert "Doe" not in str(first)

    def test_what_cannot_be_read_is_told(self, tmp_path, save_dicom, save_volume, volumes):
        save_others(save_dicom, tmp_path)
        save_volume(tmp_path, volumes["1.2.2"], AFFINE, skip=(2,), SeriesInstanceUID="1")
        save_dicom(
            tmp_path / "x.dcm",
            volumes["1.2.1"][..., 0],
            SeriesInstanceUID="2",
            Modality="DX",
        )
        (tmp_path / "damaged.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
        series = {info.uid: info for info in list_series(tmp_path)}
        assert set(series) == {"1", "2", "8", "9", ""}
        assert "evenly spaced" in series["1"].problem and series["1"].shape == ()
        assert series["2"].shape == (4, 5) and series["2"].problem == ""
        assert read_image(series["2"].path, series_uid="2").ndim == 3
        assert "without pixels" in series["8"].problem
        assert "segmentation" in series["9"].problem
        assert "damaged.dcm" in series[""].problem

    def test_no_folder(self, tmp_path):
        with pytest.raises(InputError, match="expected a folder"):
            list_series(tmp_path / "none")


class TestSelect:
    def test_several_series_are_listed(self, export):
        message = (
            r"expected one series, found 2: 1\.2\.1 \(MR, series 7, 3 files: .*; 1\.2\.2 .*UID"
        )
        with pytest.raises(InputError, match=message) as caught:
            read_image(export)
        assert "Doe" not in str(caught.value) and "4711" not in str(caught.value)

    def test_a_tree_with_one_series_is_that_volume(self, export, volumes):
        shutil.rmtree(export / "DICOM" / "0")
        image = read_image(export)
        np.testing.assert_array_equal(image.numpy()[0], volumes["1.2.2"])
        assert not holds_dicom(export) and holds_dicom(export, recursive=True)

    def test_files_in_the_folder_come_before_those_below(self, export, save_volume, volumes):
        save_volume(export, volumes["1.2.1"], AFFINE, SeriesInstanceUID="1.2.5")
        assert read_image(export).meta["series_uid"] == "1.2.5"
        assert read_image(export, series_uid="1.2.2").shape == (1, 4, 5, 4)

    def test_an_unknown_series_names_the_others(self, export):
        with pytest.raises(InputError, match=r"found no 1\.2\.9 but 1\.2\.1 "):
            read_image(export, series_uid="1.2.9")
        file = next((export / "DICOM" / "0").iterdir())
        assert read_image(file, series_uid="1.2.1").shape == (1, 5, 4)
        with pytest.raises(InputError, match=r"series 1\.2\.9, found 1\.2\.1"):
            read_image(file, series_uid="1.2.9")

    def test_other_objects_are_passed_over_with_one_warning(
        self, tmp_path, save_dicom, save_volume, volumes
    ):
        save_volume(tmp_path, volumes["1.2.1"], AFFINE)
        save_others(save_dicom, tmp_path)
        with pytest.warns(UserWarning) as warned:
            image = read_image(tmp_path)
        assert [str(w.message).split(": ")[1] for w in warned] == [
            "passed over 2 DICOM objects (1 SEG, 1 SR) that hold no image."
        ]
        np.testing.assert_array_equal(image.numpy()[0], volumes["1.2.1"])

    def test_only_other_objects(self, tmp_path, save_dicom):
        save_others(save_dicom, tmp_path)
        with pytest.raises(InputError, match=r"found 2 DICOM objects \(1 SEG, 1 SR\) without"):
            read_image(tmp_path)

    def test_an_incomplete_series_is_refused(self, tmp_path, save_volume, volumes):
        save_volume(tmp_path, volumes["1.2.2"], AFFINE, skip=(1,))
        with pytest.raises(InputError, match="4.000 mm between IM.*Add the missing slices"):
            read_image(tmp_path)

    def test_other_files_have_no_series(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"x")
        with pytest.raises(InputError, match="series_uid: expected DICOM files"):
            read_image(tmp_path / "a.png", series_uid="1")


def test_reading_decodes_nothing(export, monkeypatch):
    monkeypatch.setattr("transforms.dicom.image.decode", None)
    assert read_dicom(export, "1.2.2").shape == (4, 5, 4)

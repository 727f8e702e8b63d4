import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from transforms.errors import InputError
from transforms.intensity import ScaleBody
from transforms.readers import picture_range, read_case, read_image

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
NAME = "Doe^Jane"


def shipped(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


ROWS = np.array([0.8, 0.6, 0.0])
COLUMNS = np.array([-0.36, 0.48, -0.8])
NORMAL = np.cross(ROWS, COLUMNS)
ORIGIN = np.array([-30.0, 12.0, 7.5])
SPACING = (0.5, 0.75)


def slice_elements(height: float) -> dict:
    return {
        "ImagePositionPatient": [round(float(x), 6) for x in ORIGIN + height * NORMAL],
        "ImageOrientationPatient": [round(float(x), 6) for x in (*ROWS, *COLUMNS)],
        "PixelSpacing": list(SPACING),
        "RescaleSlope": 2,
        "RescaleIntercept": -100,
    }


def save_series(save_dicom, folder: Path, heights=(0.0, 3.0, 6.0, 9.0), changes=None) -> np.ndarray:
    """Write slices under shuffled names; ``changes`` maps a slice's index to elements."""
    folder.mkdir(exist_ok=True)
    stored = np.random.default_rng(5).integers(-50, 3000, (len(heights), 6, 4)).astype(np.int16)
    names = np.random.default_rng(1).permutation(len(heights))
    for index, height in enumerate(heights):
        elements = {**slice_elements(height), "InstanceNumber": int(names[index]) + 1}
        elements |= (changes or {}).get(index, {})
        save_dicom(folder / f"slice{names[index]}.dcm", stored[index], **elements)
    return stored


class TestPictures:
    def test_values_are_rescaled_and_rows_are_rows(self):
        image = read_image(shipped("CT_small.dcm"))
        dataset = pydicom.dcmread(shipped("CT_small.dcm"))
        expected = dataset.pixel_array * 1.0 * dataset.RescaleSlope + dataset.RescaleIntercept
        assert dataset.RescaleIntercept == -1024
        np.testing.assert_array_equal(image.numpy()[0], expected)
        np.testing.assert_array_equal(image.affine.numpy(), np.eye(4))
        assert image.meta["modality"] == "CT" and image.meta["bit_depth"] == 16
        assert image.meta["series_uid"] == dataset.SeriesInstanceUID
        assert image.meta["dicom_files"] == (str(shipped("CT_small.dcm")),)
        assert "dicom_frames" not in image.meta

    @pytest.mark.parametrize(
        "name",
        [
            "MR_small_RLE.dcm",
            "MR_small_bigendian.dcm",
            "MR_small_implicit.dcm",
            "MR_small_jp2klossless.dcm",
            "MR_small_jpeg_ls_lossless.dcm",
        ],
    )
    def test_transfer_syntaxes_agree(self, name):
        expected = pydicom.dcmread(shipped("MR_small.dcm")).pixel_array
        np.testing.assert_array_equal(read_image(shipped(name)).numpy()[0], expected)

    @pytest.mark.parametrize(
        "name", ["SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_rle.dcm", "SC_ybr_full_422_uncompressed.dcm"]
    )
    def test_colour_is_rgb(self, name):
        image = read_image(shipped(name))
        expected = pydicom.dcmread(shipped(name)).pixel_array
        if pydicom.dcmread(shipped(name)).PhotometricInterpretation == "RGB":
            np.testing.assert_array_equal(image.numpy(), np.moveaxis(expected, -1, 0))
        np.testing.assert_allclose(image.numpy()[:, 5, 50], (255, 0, 0), atol=2)  # lossy
        assert image.shape == (3, 100, 100) and image.meta["bit_depth"] == 8

    def test_equal_channels_become_one(self, tmp_path, save_dicom):
        grey = np.arange(60, dtype=np.uint8).reshape(6, 10)
        image = read_image(save_dicom(tmp_path / "a.dcm", np.stack([grey] * 3, axis=-1)))
        np.testing.assert_array_equal(image.numpy(), grey[None])

    @pytest.mark.parametrize(
        ("dtype", "stored_bits", "total"),
        [(np.uint8, 8, 255), (np.uint16, 12, 4095), (np.int16, 12, -1)],
    )
    def test_monochrome1_is_inverted_before_rescaling(
        self, tmp_path, dtype, stored_bits, total, save_dicom
    ):
        stored = np.arange(24, dtype=dtype).reshape(4, 6)
        path = save_dicom(
            tmp_path / "a.dcm",
            stored,
            PhotometricInterpretation="MONOCHROME1",
            BitsStored=stored_bits,
            HighBit=stored_bits - 1,
            RescaleSlope=3,
            RescaleIntercept=5,
        )
        image = read_image(path).numpy()[0]
        np.testing.assert_array_equal(image, 3.0 * (total - stored.astype(float)) + 5)

    def test_bit_depth_promises_only_what_holds(self, tmp_path, save_dicom):
        eight = np.arange(24, dtype=np.uint8).reshape(4, 6)
        plain = read_image(save_dicom(tmp_path / "plain.dcm", eight))
        shifted = read_image(save_dicom(tmp_path / "b.dcm", eight, RescaleIntercept=-9))
        signed = read_image(save_dicom(tmp_path / "c.dcm", eight.astype(np.int8)))
        assert picture_range(plain.meta) == (0, 255)
        assert ScaleBody().resolve(plain) == "unit"
        assert ScaleBody().resolve(shifted) == ScaleBody().resolve(signed) == "percentile"
        assert shifted.min() == -9

    def test_files_need_no_extension(self, tmp_path):
        for name in ("IM0001", "MR.1.2.840.887330"):
            shutil.copy(shipped("MR_small.dcm"), tmp_path / name)
            assert read_case(tmp_path / name).shape == (1, 64, 64)


class TestSeries:
    def test_oblique_series_with_shuffled_names(self, tmp_path, save_dicom):
        stored = save_series(save_dicom, tmp_path / "series")
        (tmp_path / "series" / "notes.txt").write_text("not an image")
        (tmp_path / "series" / ".hidden.dcm").write_text("not an image")
        image = read_image(tmp_path / "series")
        expected = np.moveaxis(stored, 0, -1).transpose(1, 0, 2) * 2.0 - 100
        np.testing.assert_array_equal(image.numpy()[0], expected)
        assert image.shape == (1, 4, 6, 4) and "bit_depth" not in image.meta
        # Column 2, row 3, slice 1: from DICOM's LPS to RAS.
        lps = ORIGIN + 2 * SPACING[1] * ROWS + 3 * SPACING[0] * COLUMNS + 3.0 * NORMAL
        found = image.affine.numpy() @ (2, 3, 1, 1)
        np.testing.assert_allclose(found[:3], lps * (-1, -1, 1), atol=1e-5)
        assert image.affine.dtype.is_floating_point and image.affine.element_size() == 8

    def test_order_along_the_normal_ignores_numbers_and_sign(self, tmp_path, save_dicom):
        stored = save_series(save_dicom, tmp_path / "series", heights=(9.0, 6.0, 3.0, 0.0))
        image = read_image(tmp_path / "series").numpy()[0]
        np.testing.assert_array_equal(image[:, :, 0], stored[3].T * 2.0 - 100)

    def test_each_slice_has_its_own_rescaling(self, tmp_path, save_dicom):
        stored = save_series(save_dicom, tmp_path / "series", changes={2: {"RescaleSlope": 7}})
        image = read_image(tmp_path / "series").numpy()[0]
        np.testing.assert_array_equal(image[:, :, 2], stored[2].T * 7.0 - 100)

    def test_rounded_positions_are_even(self, tmp_path, save_dicom):
        save_series(save_dicom, tmp_path / "series", heights=(0.0, 3.04, 5.97, 9.0))
        assert read_image(tmp_path / "series").shape == (1, 4, 6, 4)

    @pytest.mark.parametrize(
        ("heights", "changes", "message"),
        [
            ((0, 3, 6), {1: {"SeriesInstanceUID": "1.2.9"}}, r"2: 1\.2\.\d .*; 1\.2\.\d "),
            ((0, 3, 6, 6, 9), {}, "5 slices at 4 positions.*time points"),
            ((0, 3, 6, 12), {}, r"3\.000 mm as a rule but 6\.000 mm between slice\d"),
            ((0, 3, 6.2), {}, "evenly spaced"),
            ((0, 3), {1: {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}}, "ImageOrientation"),
            ((0, 3), {1: {"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}}, "perpendicular unit"),
            ((0, 3), {1: {"PixelSpacing": [0.5, 0.8]}}, "PixelSpacing"),
            ((0, 3), {1: {"Rows": 5}}, "shape"),
            ((0, 3), {1: {"ImagePositionPatient": [-29, 12, 9]}}, "tilted gantry"),
            ((0, 3), {1: {"GantryDetectorTilt": -15}}, "GantryDetectorTilt -15"),
            ((0, 3), {1: {"ImagePositionPatient": None}}, "ImagePositionPatient is missing"),
            ((0, 3), {1: {"PixelSpacing": None}}, "PixelSpacing is missing"),
            ((0, 3), {1: {"NumberOfFrames": 2}}, "multi-frame"),
            ((0, 3), {1: {"ImageType": ["ORIGINAL", "PRIMARY", "MOSAIC"]}}, "mosaic"),
            ((0, 3), {1: {"PixelData": None}}, "no or cut-off pixel data"),
            ((0,), {}, "found one slice"),
        ],
    )
    def test_what_is_no_plain_volume_is_refused(
        self, tmp_path, heights, changes, message, save_dicom
    ):
        save_series(save_dicom, tmp_path / "series", heights, changes)
        with pytest.raises(InputError, match=message) as caught:
            read_image(tmp_path / "series")
        assert not any(text in str(caught.value) for text in (NAME, "4711", "19700102"))

    def test_colour_slices_are_refused(self, tmp_path, save_dicom):
        for index in range(2):
            pixels = np.zeros((4, 4, 3), dtype=np.uint8)
            save_dicom(tmp_path / f"{index}.dcm", pixels, **slice_elements(3.0 * index))
        with pytest.raises(InputError, match="found colour"):
            read_image(tmp_path)

    def test_meta_tells_nothing_of_the_patient(self, tmp_path, save_dicom):
        save_series(save_dicom, tmp_path / "series")
        for path in (tmp_path / "series", tmp_path / "series" / "slice0.dcm"):
            text = str(read_image(path).meta)
            assert not any(private in text for private in (NAME, "4711", "19700102"))


class TestBadFiles:
    def test_truncated_and_other_files(self, tmp_path):
        with pytest.raises(InputError, match="cut off"):
            read_image(shipped("MR_truncated.dcm"))
        for name in ("MR_small.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"):
            content = shipped(name).read_bytes()
            for size in (100, 140, 600, len(content) - 1000):
                (tmp_path / name).write_bytes(content[:size])
                with pytest.raises(InputError, match=name):
                    read_image(tmp_path / name)
        (tmp_path / "text.dcm").write_text("no DICOM" * 50)
        with pytest.raises(InputError, match=r"text\.dcm: expected a readable DICOM"):
            read_image(tmp_path)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("test-SR.dcm", "without pixels"),
            ("rtplan.dcm", "without pixels"),
            ("waveform_ecg.dcm", "without pixels"),
            ("liver_1frame.dcm", "found a segmentation"),
            ("rtdose_1frame.dcm", "found a radiation dose"),
            ("SC_rgb_rle_16bit.dcm", "8 bits allocated for RGB"),
            ("SC_rgb_rle_2frame.dcm", "multi-frame"),
        ],
    )
    def test_what_is_no_plain_image_is_refused(self, name, message):
        with pytest.raises(InputError, match=message):
            read_image(shipped(name))

    def test_every_shipped_file_is_read_or_refused(self):
        for path in sorted(PYDICOM_FILES.glob("*.dcm")):
            try:
                assert read_image(path).ndim == 3
            except InputError as error:
                assert path.name in str(error)

    def test_rescaling_by_zero_and_lookup_tables_are_refused(self, tmp_path, save_dicom):
        pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
        with pytest.raises(InputError, match="found PALETTE COLOR"):
            colours = "PALETTE COLOR"
            read_image(save_dicom(tmp_path / "c.dcm", pixels, PhotometricInterpretation=colours))
        with pytest.raises(InputError, match="RescaleSlope"):
            read_image(save_dicom(tmp_path / "a.dcm", pixels, RescaleSlope=0))
        tables = [pydicom.Dataset()]
        with pytest.raises(InputError, match="lookup"):
            read_image(save_dicom(tmp_path / "b.dcm", pixels, ModalityLUTSequence=tables))

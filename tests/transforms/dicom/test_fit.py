"""Rows and Columns that do not fit the pixel data are refused, however it is compressed."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from transforms.errors import InputError
from transforms.readers import read_image

PIXELS = np.random.default_rng(0).integers(0, 9999, (12, 8), dtype=np.uint16)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_jp2klossless.dcm",
        "SC_rgb_jpeg_lossy_gdcm.dcm",
        "SC_rgb_rle.dcm",
        "SC_rgb_small_odd_jpeg.dcm",
    ],
)
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (-2, 0), (-1, 0), (0, -2), (2, 0), (0, 2)])
def test_every_compression(tmp_path, name, rows, columns):
    dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    dataset.Rows += rows
    dataset.Columns += columns
    dataset.save_as(tmp_path / "a.dcm")
    if (rows, columns) == (0, 0):
        assert read_image(tmp_path / "a.dcm").shape[1:] == (dataset.Rows, dataset.Columns)
    else:
        with pytest.raises(InputError, match=r"a\.dcm: expected"):
            read_image(tmp_path / "a.dcm")


class TestUncompressed:
    @pytest.mark.parametrize("size", [190, 194, 400])
    def test_other_sizes(self, tmp_path, save_dicom, size):
        content = (PIXELS.tobytes() * 3)[:size]
        path = save_dicom(tmp_path / "a.dcm", PIXELS, PixelData=content)
        with pytest.raises(InputError, match=f"expected 192 bytes of pixels .*found {size}"):
            read_image(path)

    def test_one_more_row_of_zeros(self):
        path = str(get_testdata_file("MR_small_padded.dcm", download=False))
        with pytest.raises(InputError, match="expected 8192 bytes of pixels .*found 8320"):
            read_image(path)

    def test_an_odd_size_is_padded(self, tmp_path, save_dicom):
        odd = PIXELS[:5, :7].astype(np.uint8)
        path = save_dicom(tmp_path / "a.dcm", odd, PixelData=odd.tobytes() + b"\0")
        np.testing.assert_array_equal(read_image(path).numpy()[0], odd)


@pytest.mark.parametrize("content", [b"\xff\xd8\xff", b"\xff\xd8" + b"x" * 40])
def test_frames_that_are_none(tmp_path: Path, content):
    dataset = pydicom.dcmread(
        str(get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False))
    )
    dataset.PixelData = pydicom.encaps.encapsulate([content])
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match=r"a\.dcm: expected"):
        read_image(tmp_path / "a.dcm")

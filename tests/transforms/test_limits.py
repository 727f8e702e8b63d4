"""Images too large for the memory allowed are refused by what their headers say."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.data import get_testdata_file

from transforms.errors import InputError
from transforms.limits import MAX_GIGABYTES, set_limits
from transforms.readers import read_image

VALUES = np.random.default_rng(0).integers(0, 255, (30, 30, 30)).astype(np.uint8)
DEFLATED = "image_dfl.dcm"


def shipped(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


@pytest.fixture
def small() -> Iterator[None]:
    """Allows 100 KiB, where 27,000 values take 108,000 bytes once read."""
    set_limits(100 / 2**20)
    yield
    set_limits(MAX_GIGABYTES)


def save(path: Path) -> Path:
    if ".nii" in path.name:
        nib.save(nib.Nifti1Image(VALUES, np.eye(4)), path)
    elif path.suffix in (".png", ".tif", ".jpg"):
        Image.fromarray(VALUES.reshape(300, 90)).save(path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(path), useCompression=True)
    return path


@pytest.mark.parametrize(
    "name",
    ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.png", "a.tif", "a.jpg"],
)
def test_every_format(tmp_path, small, name):
    path = save(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: .*at most 9.5\d+e-05 GiB .*--max_gigabytes"):
        read_image(path)
    set_limits(MAX_GIGABYTES)
    assert read_image(path).numel() == VALUES.size


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small.dcm", DEFLATED])
def test_dicom(small, name):
    set_limits(4 / 2**20)
    with pytest.raises(InputError, match=rf"{name}: .*--max_gigabytes"):
        read_image(shipped(name))


def test_a_series_counts_as_one_volume(tmp_path, save_volume, small):
    volume = VALUES[:, :, :12].astype(np.uint16)
    folder = save_volume(tmp_path / "series", volume, np.diag([1.0, -1, 1, 1]))
    assert read_image(folder).shape == (1, 30, 30, 12)
    set_limits(40 / 2**20)
    with pytest.raises(InputError, match="--max_gigabytes"):
        read_image(folder)


def test_declared_sizes_are_believed_by_nobody(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((32767, 32767, 32767))
    header["vox_offset"] = 352
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1000)))
    with pytest.raises(InputError, match=r"found one of 1.31e\+05 GiB"):
        read_image(tmp_path / "a.nii.gz")


def test_what_deflated_dicom_inflates_to(tmp_path, small):
    content = shipped(DEFLATED).read_bytes()
    start = 144 + pydicom.dcmread(shipped(DEFLATED)).file_meta.FileMetaInformationGroupLength
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = packer.compress(bytes(50_000_000)) + packer.flush()
    (tmp_path / "a.dcm").write_bytes(content[:start] + bomb)
    with pytest.raises(InputError, match=r"a\.dcm: .*--max_gigabytes"):
        read_image(tmp_path / "a.dcm")
    set_limits(MAX_GIGABYTES)
    (tmp_path / "b.dcm").write_bytes(content[:-900])
    with pytest.raises(InputError, match=r"b\.dcm: .*cut off"):
        read_image(tmp_path / "b.dcm")

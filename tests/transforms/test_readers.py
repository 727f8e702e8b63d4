import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

import transforms
import transforms.readers as readers
from transforms.errors import InputError
from transforms.readers import (
    picture_range,
    read_case,
    read_image,
    read_mask,
)

NIBABEL_DATA = Path(nib.__file__).parent / "tests" / "data"
LEVELS = (np.arange(1000, dtype=np.uint16) * 65).reshape(20, 50)

needs_data = pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="no AEFLOW_DATA_DIR")


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def save_picture(path: Path, pixels: np.ndarray, mode: str | None = None, **options) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def png_16_bit(pixels: np.ndarray, colour_type: int) -> bytes:
    """A PNG made by hand, since Pillow writes no 16-bit colour or alpha."""
    height, width = pixels.shape[:2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


class TestPictures:
    @pytest.mark.parametrize("name", ["a.png", "a.tif", "A.TIFF"])
    def test_16_bits_keep_all_levels(self, tmp_path, name):
        image = read_image(save_picture(tmp_path / name, LEVELS))
        assert image.shape == (1, 20, 50)
        assert image.dtype == torch.float32
        assert torch.equal(image[0].as_tensor(), torch.from_numpy(LEVELS.astype(np.float32)))
        assert len(image.unique()) == 1000
        assert image.meta["bit_depth"] == 16
        assert picture_range(image.meta) == (0.0, 65535.0)

    def test_big_endian_and_32_bit_containers_keep_all_levels(self, tmp_path):
        big = tmp_path / "big.tif"
        Image.frombytes("I;16B", (50, 20), LEVELS.astype(">u2").tobytes()).save(big)
        wide = save_picture(tmp_path / "wide.tif", LEVELS.astype(np.int32))
        for path in (big, wide):
            image = read_image(path)
            assert len(image.unique()) == 1000
            assert image.meta["bit_depth"] == 16

    def test_more_than_16_bits_are_refused(self, tmp_path):
        path = save_picture(tmp_path / "a.tif", LEVELS.astype(np.int32) * 1000)
        with pytest.raises(InputError, match=r"a\.tif: expected at most 16 bits"):
            read_image(path)

    def test_signed_16_bits_keep_their_sign(self, tmp_path):
        values = LEVELS.astype(np.int32) - 32500
        sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.int16)), tmp_path / "s.tif")
        image = read_image(tmp_path / "s.tif")
        assert float(image.min()) == -32500
        assert image.meta["bit_depth"] == 16

    @pytest.mark.parametrize("suffix", ["png", "tiff"])
    def test_16_bit_colour_is_not_cut_to_8(self, tmp_path, suffix):
        colour = np.stack([LEVELS, LEVELS[::-1], LEVELS // 2], axis=-1)
        path = tmp_path / f"a.{suffix}"
        sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), path)
        image = read_image(path)
        assert image.meta["bit_depth"] == 16
        np.testing.assert_array_equal(image.numpy(), np.moveaxis(colour, -1, 0))

    def test_16_bit_alpha_is_refused(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(png_16_bit(np.stack([LEVELS, LEVELS], axis=-1), colour_type=4))
        with pytest.raises(InputError, match="transparency"):
            read_image(path)

    def test_truncated_16_bit_colour_is_refused(self, tmp_path, rng):
        path = tmp_path / "a.png"
        pixels = rng.integers(0, 65536, (40, 50, 3), dtype=np.uint16)
        path.write_bytes(png_16_bit(pixels, colour_type=2)[:5000])
        with pytest.raises(InputError, match=r"a\.png"):
            read_image(path)

    def test_equal_channels_become_one(self, tmp_path, rng):
        grey = rng.integers(0, 256, (7, 9), dtype=np.uint8)
        rgb = save_picture(tmp_path / "rgb.png", np.stack([grey] * 3, axis=-1))
        image = read_image(rgb)
        assert image.shape == (1, 7, 9)
        assert torch.equal(image[0].as_tensor(), torch.from_numpy(grey.astype(np.float32)))
        assert picture_range(image.meta) == (0.0, 255.0)

    def test_colour_stays_colour_with_rows_as_rows(self, tmp_path, rng):
        colour = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
        image = read_image(save_picture(tmp_path / "a.png", colour))
        np.testing.assert_array_equal(image.numpy(), np.moveaxis(colour, -1, 0))

    def test_single_channel_jpeg(self, tmp_path):
        grey = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (32, 1))
        for mode in ("L", "RGB"):
            image = read_image(save_picture(tmp_path / f"{mode}.jpeg", grey, mode))
            assert image.shape == (1, 32, 64)

    @pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA"])
    def test_other_modes_without_loss(self, tmp_path, mode):
        pixels = np.zeros((6, 8), dtype=np.uint8)
        pixels[2:4, 3:6] = 255
        image = read_image(save_picture(tmp_path / "a.png", pixels, mode))
        np.testing.assert_array_equal(image.numpy(), pixels[None])

    def test_transparency_is_refused(self, tmp_path, rng):
        pixels = rng.integers(0, 255, (6, 8, 4), dtype=np.uint8)
        with pytest.raises(InputError, match=r"a\.png: expected an opaque picture"):
            read_image(save_picture(tmp_path / "a.png", pixels))

    @pytest.mark.parametrize(
        ("name", "mode"), [("a.jpg", "CMYK"), ("a.tif", "F"), ("a.tif", "LAB")]
    )
    def test_other_colour_spaces_are_refused(self, tmp_path, rng, name, mode):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        source = pixels[..., 0] if mode == "F" else pixels
        if mode == "LAB":
            Image.frombytes("LAB", (8, 8), pixels.tobytes()).save(tmp_path / name)
        else:
            save_picture(tmp_path / name, source, mode)
        with pytest.raises(InputError, match=mode):
            read_image(tmp_path / name)

    def test_several_pages_are_refused(self, tmp_path):
        page = Image.fromarray(LEVELS)
        page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
        with pytest.raises(InputError, match="2 pages"):
            read_image(tmp_path / "a.tif")

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("name", ["a.png", "a.tif"])
    def test_orientation_of_the_camera_is_applied(self, tmp_path, dtype, name):
        pixels = np.arange(12, dtype=dtype).reshape(3, 4)
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees clockwise
        path = save_picture(tmp_path / name, pixels, exif=exif)
        np.testing.assert_array_equal(read_image(path)[0].numpy(), np.rot90(pixels, -1))


class TestVolumes:
    def test_order_and_affine_are_kept(self, tmp_path, rng):
        values = rng.integers(-500, 500, (4, 5, 6)).astype(np.int16)
        affine = np.array([[-1.5, 0.1, 0, 7], [0, 2, 0.3, -9], [0, 0, 3, 1], [0, 0, 0, 1.0]])
        image = read_image(save_nifti(tmp_path / "a.nii.gz", values, affine))
        np.testing.assert_array_equal(image.numpy(), values[None])
        assert image.affine.dtype == torch.float64
        np.testing.assert_allclose(image.affine.numpy(), affine, atol=1e-6)
        with pytest.raises(InputError, match="zscore"):
            picture_range(image.meta)

    def test_channels_last_become_first(self, tmp_path, rng):
        values = rng.normal(size=(4, 5, 6, 3)).astype(np.float32)
        vector = values[:, :, :, None]
        for name, stored in (("a.nii", values), ("vector.nii", vector)):
            image = read_image(save_nifti(tmp_path / name, stored))
            np.testing.assert_array_equal(image.numpy(), np.moveaxis(values, -1, 0))

    @pytest.mark.parametrize(
        "name", ["anatomical.nii", "example4d.nii.gz", "standard.nii.gz", "example_nifti2.nii.gz"]
    )
    def test_sample_files(self, name):
        expected = nib.load(NIBABEL_DATA / name)
        image = read_image(NIBABEL_DATA / name)
        data = np.asarray(expected.dataobj, dtype=np.float32)
        data = data[..., None] if data.ndim == 3 else data
        np.testing.assert_array_equal(image.numpy(), np.moveaxis(data, -1, 0))
        np.testing.assert_array_equal(image.affine.numpy(), expected.affine)

    def test_unknown_orientation_warns(self, tmp_path):
        image = nib.Nifti1Image(np.arange(24, dtype=np.float32).reshape(2, 3, 4), None)
        nib.save(image, tmp_path / "a.nii")
        with pytest.warns(UserWarning, match="no orientation"):
            read_image(tmp_path / "a.nii")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_not_finite(self, tmp_path, value):
        values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        values[0, 0, 0] = value
        with pytest.raises(InputError, match=r"a\.nii: expected finite values, found 1"):
            read_image(save_nifti(tmp_path / "a.nii", values))

    def test_constant_image(self, tmp_path):
        with pytest.raises(InputError, match=r"a\.nii: .*the value 3 everywhere"):
            read_image(save_nifti(tmp_path / "a.nii", np.full((2, 3, 4), 3, np.int16)))

    def test_other_content_is_refused(self, tmp_path):
        flat = save_nifti(tmp_path / "flat.nii", np.eye(5, dtype=np.float32))
        with pytest.raises(InputError, match="expected a volume"):
            read_image(flat)
        imaginary = save_nifti(tmp_path / "c.nii", np.ones((2, 3, 4), dtype=np.complex64))
        with pytest.raises(InputError, match="real numbers"):
            read_image(imaginary)
        singular = nib.Nifti1Image(np.zeros((2, 3, 4), dtype=np.int16), np.eye(4))
        singular.header["srow_z"], singular.header["vox_offset"] = 0, 352
        path = tmp_path / "s.nii"
        path.write_bytes(singular.header.binaryblock + bytes(4 + 48))
        with pytest.raises(InputError, match="invertible affine"):
            read_image(path)


class TestDamagedFiles:
    @pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.png", "a.jpg", "a.tif"])
    def test_truncated(self, tmp_path, rng, name):
        path = tmp_path / name
        if ".nii" in name:
            save_nifti(path, rng.integers(0, 999, (20, 20, 20)).astype(np.int16))
        else:
            save_picture(path, rng.integers(0, 255, (64, 64), dtype=np.uint8))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_image(path)

    @pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpeg", "a.nii", "a.nii.gz"])
    def test_text_and_empty_files(self, tmp_path, name):
        path = tmp_path / name
        path.write_text("This is not an image.\n" * 50)
        with pytest.raises(InputError, match=f"{name}: expected a readable"):
            read_image(path)
        path.write_bytes(b"")
        with pytest.raises(InputError, match=f"{name}: .*empty file"):
            read_image(path)

    def test_missing_folder_and_unsupported(self, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            read_image(tmp_path / "a.png")
        with pytest.raises(InputError, match="a folder"):
            read_image(tmp_path)
        (tmp_path / "a.bmp").write_bytes(b"BM")
        with pytest.raises(InputError, match=r"expected one of \.png.*found \.bmp"):
            read_image(tmp_path / "a.bmp")


class TestCases:
    def test_modalities_are_joined_in_order(self, tmp_path, rng):
        volumes = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
        paths = [save_nifti(tmp_path / f"{i}.nii", v) for i, v in enumerate(volumes)]
        np.testing.assert_array_equal(read_case(paths).numpy(), volumes)
        np.testing.assert_array_equal(read_case(paths, (2, 0)).numpy(), volumes[[2, 0]])
        np.testing.assert_array_equal(read_case(paths[1]).numpy(), volumes[1:2])

    def test_channels_of_one_file(self, tmp_path, rng):
        values = rng.normal(size=(4, 5, 6, 3)).astype(np.float32)
        path = save_nifti(tmp_path / "a.nii", values)
        np.testing.assert_array_equal(read_case((path,), (1,)).numpy()[0], values[..., 1])
        for channels in ((3,), (-1,), ()):
            with pytest.raises(InputError, match="indices from 0 to 2"):
                read_case((path,), channels)

    def test_other_grids_are_refused(self, tmp_path, rng):
        values = rng.normal(size=(4, 5, 6)).astype(np.float32)
        a = save_nifti(tmp_path / "a.nii", values)
        moved = np.eye(4)
        moved[0, 3] = 0.01
        with pytest.raises(InputError, match=r"b\.nii has the affine .*a\.nii has"):
            read_case((a, save_nifti(tmp_path / "b.nii", values, moved)))
        with pytest.raises(InputError, match=r"c\.nii has the shape \(4, 5, 5\).*\(4, 5, 6\)"):
            read_case((a, save_nifti(tmp_path / "c.nii", values[..., :5])))
        moved[0, 3] = 0.0005
        assert read_case((a, save_nifti(tmp_path / "d.nii", values, moved))).shape[0] == 2

    def test_no_files_and_mixed_depths(self, tmp_path):
        with pytest.raises(InputError, match="at least one file"):
            read_case(())
        a = save_picture(tmp_path / "a.png", LEVELS)
        b = save_picture(tmp_path / "b.png", (LEVELS // 256).astype(np.uint8))
        with pytest.raises(InputError, match="8 bits"):
            read_case((a, b))

    def test_mask(self, tmp_path, rng):
        image = read_image(save_nifti(tmp_path / "a.nii", rng.normal(size=(4, 5, 6))))
        labels = rng.integers(0, 5, (4, 5, 6)).astype(np.uint8)
        mask = read_mask(save_nifti(tmp_path / "m.nii.gz", labels), image)
        assert mask.dtype == torch.uint8
        np.testing.assert_array_equal(mask.numpy(), (labels != 0)[None])
        empty = read_mask(save_nifti(tmp_path / "e.nii", labels * 0), image)
        assert not empty.any()
        with pytest.raises(InputError, match=r"m2\.nii has the affine"):
            read_mask(save_nifti(tmp_path / "m2.nii", labels, 2 * np.eye(4)), image)
        with pytest.raises(InputError, match="one channel, found 2"):
            read_mask(save_nifti(tmp_path / "m3.nii", np.stack([labels] * 2, -1)), image)

    def test_mask_of_a_picture(self, tmp_path):
        image = read_image(save_picture(tmp_path / "a.png", LEVELS))
        colours = np.zeros((20, 50, 3), dtype=np.uint8)
        colours[3, 4, 2] = 200
        mask = read_mask(save_picture(tmp_path / "m.png", colours), image)
        assert mask.nonzero().tolist() == [[0, 3, 4]]
        with pytest.raises(InputError, match="lossless"):
            read_mask(save_picture(tmp_path / "m.jpg", colours), image)


@needs_data
class TestRealFiles:
    def test_xray_is_grey(self):
        folder = Path(os.environ["AEFLOW_DATA_DIR"]) / "xray" / "train_normal"
        image = read_image(sorted(folder.iterdir())[0])
        assert image.shape == (1, 224, 224)
        assert image.meta["bit_depth"] == 8

    def test_brats_case(self):
        folder = sorted((Path(os.environ["AEFLOW_DATA_DIR"]) / "brats").iterdir())[0]
        image = read_case([folder / f"{folder.name}_{m}.nii.gz" for m in ("flair", "t2")])
        mask = read_mask(folder / f"{folder.name}_seg.nii.gz", image)
        assert image.shape == (2, 240, 240, 155)
        assert nib.aff2axcodes(image.affine.numpy()) == ("L", "P", "S")
        assert set(mask.unique().tolist()) == {0, 1}


def test_what_decodes_is_not_imported_before_it_is_needed():
    code = "import sys, transforms.readers, transforms.intensity; print('SimpleITK' in sys.modules)"
    root = Path(transforms.__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert found.stdout.strip() == "False", found.stderr


def test_tensors_are_made_by_the_thread_that_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makers: list[int] = []
    made = readers._float32
    monkeypatch.setattr(
        readers, "_float32", lambda array: (makers.append(threading.get_ident()), made(array))[1]
    )
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    readers.read_image(tmp_path / "a.png")
    assert makers == [threading.get_ident()]

import numpy as np
import pytest
import SimpleITK as sitk

from transforms.errors import InputError
from transforms.readers import VOLUME_SUFFIXES, picture_range, read_image, read_mask

HEADER = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nencoding: raw\nendian: little\n"


@pytest.fixture
def stored() -> np.ndarray:
    return np.arange(24, dtype="<i2").reshape(2, 3, 4)


def save(path, array, vector=False, **settings):
    image = sitk.GetImageFromArray(array, isVector=vector)
    for name, value in settings.items():
        getattr(image, f"Set{name}")(value)
    sitk.WriteImage(image, str(path))
    return path


class TestSpaces:
    @pytest.mark.parametrize(
        ("space", "signs"),
        [
            (b"left-posterior-superior", (-1, -1, 1)),
            (b"right-anterior-superior", (1, 1, 1)),
            (b"left-anterior-superior", (-1, 1, 1)),
            (b"RAS", (1, 1, 1)),
        ],
    )
    def test_nrrd(self, tmp_path, stored, space, signs):
        extra = b"space directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (10,20,30)\n\n"
        path = tmp_path / "a.nrrd"
        path.write_bytes(HEADER + b"space: " + space + b"\n" + extra + stored.tobytes())
        image = read_image(path)
        expected = np.diag([*(np.array(signs) * (1, 2, 3)), 1.0])
        expected[:3, 3] = np.array(signs) * (10, 20, 30)
        np.testing.assert_array_equal(image.affine.numpy(), expected)
        np.testing.assert_array_equal(image.numpy()[0], stored.T)

    @pytest.mark.parametrize("space", [b"", b"space: scanner-xyz\n", b"space dimension: 3\n"])
    def test_no_anatomical_space_warns(self, tmp_path, stored, space):
        extra = b"spacings: 1 2 3\n\n"
        if space:
            extra = b"space directions: (1,0,0) (0,2,0) (0,0,3)\n\n"
        path = tmp_path / "a.nrrd"
        path.write_bytes(HEADER + space + extra + stored.tobytes())
        with pytest.warns(UserWarning, match="left and right are a guess"):
            image = read_image(path)
        np.testing.assert_array_equal(image.affine.numpy(), np.diag([-1.0, -2, 3, 1]))


class TestChannels:
    @pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
    def test_components_become_channels(self, tmp_path, suffix):
        values = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
        image = read_image(save(tmp_path / f"a{suffix}", values, vector=True))
        np.testing.assert_array_equal(image.numpy(), values.transpose(3, 2, 1, 0))

    def test_a_fourth_axis_becomes_channels(self, tmp_path):
        values = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
        path = save(tmp_path / "a.mha", values, Spacing=(1, 2, 3, 9), Origin=(1, 2, 3, 4))
        image = read_image(path)
        np.testing.assert_array_equal(image.numpy(), values.transpose(0, 3, 2, 1))
        expected = np.diag([-1.0, -2, 3, 1])
        expected[:3, 3] = (-1, -2, 3)
        np.testing.assert_array_equal(image.affine.numpy(), expected)


class TestPictures:
    def test_two_dimensions_are_a_picture(self, tmp_path):
        grey = np.arange(60, dtype=np.uint8).reshape(6, 10)
        image = read_image(save(tmp_path / "a.mha", grey))
        np.testing.assert_array_equal(image.numpy(), grey[None])
        assert picture_range(image.meta) == (0, 255)
        colour = np.random.default_rng(0).integers(0, 255, (6, 10, 3)).astype(np.uint8)
        image = read_image(save(tmp_path / "c.mha", colour, vector=True))
        np.testing.assert_array_equal(image.numpy(), colour.transpose(2, 0, 1))

    def test_one_slice_is_a_volume(self, tmp_path):
        values = np.arange(60, dtype=np.uint8).reshape(1, 6, 10)
        assert read_image(save(tmp_path / "a.nrrd", values)).shape == (1, 10, 6, 1)

    def test_other_depths_are_refused(self, tmp_path):
        values = np.linspace(0, 1, 60, dtype=np.float32).reshape(6, 10)
        with pytest.raises(InputError, match="16 bits, found two dimensions of type float32"):
            read_image(save(tmp_path / "a.mha", values))


class TestBadFiles:
    @pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
    @pytest.mark.parametrize("compressed", [False, True])
    def test_truncated(self, tmp_path, name, compressed):
        rng = np.random.default_rng(0)
        image = sitk.GetImageFromArray(rng.integers(0, 999, (5, 6, 7)).astype(np.int16))
        sitk.WriteImage(image, str(tmp_path / name), compressed)
        content = (tmp_path / name).read_bytes()
        for lost in (40, len(content) // 2, len(content) - 60):
            (tmp_path / name).write_bytes(content[:-lost])
            with pytest.raises(InputError, match=name):
                read_image(tmp_path / name)

    @pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
    def test_text(self, tmp_path, suffix):
        path = tmp_path / f"a{suffix}"
        path.write_text("no image\n" * 50)
        with pytest.raises(InputError, match="expected a readable"):
            read_image(path)

    @pytest.mark.parametrize(("name", "data"), [("a.mhd", "a.raw"), ("a.nhdr", "a.raw.gz")])
    def test_missing_data_file(self, tmp_path, stored, name, data):
        save(tmp_path / name, stored)
        others = [path for path in tmp_path.iterdir() if path.name != name]
        assert len(others) == 1
        others[0].unlink()
        with pytest.raises(InputError, match=f"{name}: expected a readable"):
            read_image(tmp_path / name)

    def test_complex_values(self, tmp_path, stored):
        path = save(tmp_path / "a.nrrd", (stored + 1j).astype(np.complex64))
        with pytest.raises(InputError, match="real numbers, found complex ones"):
            read_image(path)


def test_masks(tmp_path, stored):
    path = save(tmp_path / "a.nrrd", stored, Spacing=(1, 2, 3))
    mask = save(tmp_path / "m.mha", (stored > 5).astype(np.uint8), Spacing=(1, 2, 3))
    image = read_image(path)
    np.testing.assert_array_equal(read_mask(mask, image).numpy()[0], stored.T > 5)

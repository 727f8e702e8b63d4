"""NRRD and MetaImage files that are damaged or written to do harm: refused by name."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import InputError
from transforms.readers import read_image

VALUES = np.random.default_rng(0).integers(0, 4096, (7, 8, 9)).astype("<i2")
NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: LPS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
)
META = "ObjectType = Image\nNDims = 3\nElementType = MET_SHORT\nElementByteOrderMSB = False\n"
SECRET = "the secret of this machine\n" * 38  # enough for the values
SUFFIXES = ("nrrd", "nhdr", "mha", "mhd")


def header(suffix: str, data: str | None = None, **changes: str) -> str:
    """A header of ``VALUES``, raw and little-endian, in this file or in ``data``."""
    if suffix in ("nrrd", "nhdr"):
        fields = {"sizes": "9 8 7", "encoding": "raw", "endian": "little", **changes}
        fields |= {} if data is None else {"data file": data}
        return NRRD + "".join(f"{name}: {value}\n" for name, value in fields.items()) + "\n"
    fields = {"DimSize": "9 8 7", **changes, "ElementDataFile": data or "LOCAL"}
    return META + "".join(f"{name} = {value}\n" for name, value in fields.items())


def save(path: Path, content: str, values: bytes = b"") -> Path:
    path.write_bytes(content.encode() + values)
    return path


def compressed(path: Path) -> tuple[bytes, int]:
    """What SimpleITK writes, and where its compressed bytes begin."""
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(path), useCompression=True)
    content = path.read_bytes()
    end = b"\n\n" if path.suffix == ".nrrd" else b"LOCAL\n"
    return content, content.index(end) + len(end)


def require_equal(path: Path) -> None:
    np.testing.assert_array_equal(read_image(path).numpy()[0], VALUES.T)


class TestChecksums:
    @given(data=st.data(), name=st.sampled_from(["a.nrrd", "a.mha"]))
    def test_one_flipped_bit_is_refused_or_harmless(self, tmp_path_factory, data, name):
        path = tmp_path_factory.getbasetemp() / name
        content, start = compressed(path)
        bit = data.draw(st.integers(8 * start, 8 * len(content) - 1))
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            image = read_image(path)
        except InputError as error:
            assert str(path) in str(error)
        else:  # gzip's own header and the padding between its blocks
            np.testing.assert_array_equal(image.numpy()[0], VALUES.T)

    @pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
    def test_what_follows(self, tmp_path, name):
        content, _ = compressed(tmp_path / name)
        require_equal(tmp_path / name)
        (tmp_path / name).write_bytes(content + b"something else")
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)

    def test_other_byte_orders_and_several_streams(self, tmp_path):
        for endian, code in (("little", "<i2"), ("big", ">i2")):
            values = VALUES.astype(code).tobytes()
            text = header("nrrd", encoding="gzip", endian=endian)
            require_equal(save(tmp_path / "a.nrrd", text, gzip.compress(values)))
            with pytest.raises(InputError, match="expected 1008 bytes .*found more"):
                read_image(save(tmp_path / "a.nrrd", text, gzip.compress(values + b"\1\2")))


class TestSizes:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("sizes", ["9 8 6", "9 8 8", "900000 800000 700000"])
    def test_values_that_do_not_fit(self, tmp_path, suffix, sizes):
        name = "DimSize" if suffix.startswith("m") else "sizes"
        data = "a.raw" if suffix in ("nhdr", "mhd") else None
        path = tmp_path / f"a.{suffix}"
        save(path, header(suffix, data, **{name: sizes}), b"" if data else VALUES.tobytes())
        (tmp_path / "a.raw").write_bytes(VALUES.tobytes())
        with pytest.raises(InputError, match=rf"a\.{suffix}: expected \d+ bytes of .*found 1008"):
            read_image(path)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize(
        "sizes", ["9 8", "9 8 7 1 1", "-9 -8 7", "9 8 0", "9 8 x", "9 8 7e1", ""]
    )
    def test_sizes_that_are_none(self, tmp_path, suffix, sizes):
        name = "DimSize" if suffix.startswith("m") else "sizes"
        with pytest.raises(InputError, match=rf"a\.{suffix}: expected"):
            read_image(
                save(tmp_path / f"a.{suffix}", header(suffix, **{name: sizes}), VALUES.tobytes())
            )


class TestHostileHeaders:
    @pytest.mark.parametrize(
        ("suffix", "text"),
        [
            ("nrrd", NRRD + "x" * 1100 + ": 3\n\n"),
            ("nrrd", NRRD + "x" * 1100 + "\n\n"),
            ("nrrd", "NRRD0004\nspace: " + "x" * 1100 + "\n\n"),
            ("nrrd", NRRD + "# " + "x" * (1 << 21)),
            ("nrrd", header("nrrd", type="short")),
            ("nrrd", header("nrrd", data="LIST")),
            ("nrrd", header("nrrd", encoding="txt")),
            ("nrrd", header("nrrd").replace("short", "block")),
            ("nrrd", header("nrrd", **{"byte skip": "-2"})),
            ("nrrd", header("nrrd", **{"line skip": "3"})),
            ("mha", header("mha").replace("NDims = 3", "NDims = 100000")),
            ("mha", header("mha", NDims="100000")),
            ("mha", header("mha", TransformMatrix="1 " * 5000)),
            ("mha", header("mha", TransformMatrix="1 0 0 1")),
            ("mha", header("mha", Offset="1 nan 3")),
            ("mha", header("mha", Offset="1 x 3")),
            ("mha", header("mha", ElementNumberOfChannels="0")),
            ("mha", header("mha", HeaderSize="9")),
            ("mha", header("mha", BinaryData="False")),
            ("mha", header("mha", CompressedData="perhaps")),
            ("mha", header("mha", CompressedData="True", CompressedDataSize="1000000000000")),
            ("mha", header("mha").replace("MET_SHORT", "MET_STRING")),
            ("mha", header("mha").replace("= Image", "= Tube")),
            ("mha", "x" * 5000 + " = 1\n"),
        ],
    )
    def test_refused(self, tmp_path, suffix, text):
        with pytest.raises(InputError, match=rf"a\.{suffix}: expected"):
            read_image(save(tmp_path / f"a.{suffix}", text, VALUES.tobytes()))

    @given(data=st.data(), suffix=st.sampled_from(["nrrd", "mha"]))
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_any_byte_may_be_another(self, tmp_path_factory, data, suffix):
        content = bytearray(header(suffix).encode())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path = tmp_path_factory.getbasetemp() / f"bytes.{suffix}"
        path.write_bytes(content + VALUES.tobytes())
        try:
            assert read_image(path).numel() == VALUES.size
        except InputError as error:
            assert str(path) in str(error)


class TestDataFiles:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize(
        "name", ["{outside}", "../secret", "link", "fifo", "inside/../../secret"]
    )
    def test_outside_or_special(self, tmp_path, suffix, name):
        outside, folder = tmp_path / "secret", tmp_path / "folder"
        outside.write_text(SECRET)
        (folder / "inside").mkdir(parents=True)
        (folder / "link").symlink_to(outside)
        os.mkfifo(folder / "fifo")
        path = save(folder / f"a.{suffix}", header(suffix, name.format(outside=outside)))
        with pytest.raises(InputError, match=rf"a\.{suffix}: expected its values in a file beside"):
            read_image(path)

    @pytest.mark.parametrize(
        ("suffix", "name", "changes", "before"),
        [
            ("nhdr", "inside/a.raw", {}, 0),
            ("nhdr", "inside/a.raw", {"byte skip": "5"}, 5),
            ("nhdr", "./inside/a.raw", {"byte skip": "-1"}, 5),
            ("mhd", "inside/a.raw", {}, 0),
            ("mhd", "inside/a.raw", {"HeaderSize": "5"}, 5),
            ("mhd", "inside/a.raw", {"HeaderSize": "-1"}, 5),
        ],
    )
    def test_inside(self, tmp_path, suffix, name, changes, before):
        (tmp_path / "inside").mkdir()
        (tmp_path / "inside" / "a.raw").write_bytes(bytes(before) + VALUES.tobytes())
        require_equal(save(tmp_path / f"a.{suffix}", header(suffix, name, **changes)))


@given(
    suffix=st.sampled_from(SUFFIXES),
    kind=st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
    packed=st.booleans(),
    numbers=st.tuples(*[st.floats(0.1, 9)] * 6),
    flips=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    axes=st.permutations([0, 1, 2]),
)
def test_the_grid_is_what_simpleitk_reads(
    tmp_path_factory, suffix, kind, packed, numbers, flips, axes
):
    path = tmp_path_factory.getbasetemp() / f"grid.{suffix}"
    image = sitk.GetImageFromArray(VALUES.astype(kind))
    image.SetSpacing(numbers[:3])
    image.SetOrigin(numbers[3:])
    image.SetDirection((np.diag(flips)[list(axes)]).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=packed)
    found, expected = read_image(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(found.numpy()[0], sitk.GetArrayFromImage(expected).T)
    corner = expected.TransformIndexToPhysicalPoint((9, 8, 7))
    np.testing.assert_allclose(
        found.affine.numpy() @ (9, 8, 7, 1), [-corner[0], -corner[1], corner[2], 1], atol=1e-9
    )

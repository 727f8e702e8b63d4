"""NIfTI files: the affine is the one that the header gives by nibabel's rules."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import InputError
from transforms.readers import read_image

VALUES = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
ROTATED = np.array([[0, -2.0, 0, 30], [1.5, 0, 0, -9], [0, 0, 3, 5], [0, 0, 0, 1]])
SIGNED = st.floats(-1, 1, width=32)


def header(**fields) -> nib.Nifti1Header:
    """A header of ``VALUES`` without a form; ``srow`` sets three rows at once."""
    made = nib.Nifti1Image(VALUES, None).header
    made["vox_offset"] = 352
    rows = fields.pop("srow", np.eye(4))
    for name, row in zip(("srow_x", "srow_y", "srow_z"), rows[:3], strict=True):
        made[name] = row
    for name, value in fields.items():
        made[name] = value
    return made


def save(path: Path, **fields) -> Path:
    path.write_bytes(header(**fields).binaryblock + bytes(4) + VALUES.tobytes(order="F"))
    return path


class TestAffine:
    def test_a_rotated_sform_is_kept_whatever_the_voxel_sizes(self, tmp_path):
        path = save(tmp_path / "a.nii", srow=ROTATED, sform_code=1, pixdim=[1] * 8)
        np.testing.assert_array_equal(read_image(path).affine.numpy(), ROTATED)

    @given(
        codes=st.tuples(*[st.sampled_from([0, 1, 4])] * 2),
        sizes=st.tuples(*[st.floats(0.5, 4, width=32)] * 3),
        quaternion=st.tuples(*[st.floats(-0.5, 0.5, width=32)] * 3),
        handed=st.sampled_from([-1, 1]),
        turn=st.tuples(*[SIGNED] * 3),
    )
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_it_is_nibabels(self, tmp_path_factory, codes, sizes, quaternion, handed, turn):
        path = save(
            tmp_path_factory.getbasetemp() / "property.nii",
            sform_code=codes[0],
            qform_code=codes[1],
            pixdim=[handed, *sizes, 1, 1, 1, 1],
            srow=nib.affines.from_matvec(nib.eulerangles.euler2mat(*turn) * 2, turn),
            **dict(zip(("quatern_b", "quatern_c", "quatern_d"), quaternion, strict=True)),
        )
        np.testing.assert_array_equal(read_image(path).affine.numpy(), nib.load(path).affine)

    @pytest.mark.parametrize(
        ("fields", "cause"),
        [
            ({"sform_code": 1, "srow_x": [np.nan, 0, 0, 0]}, "sform .*not finite"),
            ({"sform_code": 1, "srow_z": [0, 0, 0, 0]}, "sform .*singular"),
            ({"sform_code": 1, "qform_code": 1, "qoffset_x": np.inf}, "qform .*not finite"),
            ({"qform_code": 1, "quatern_b": 1, "quatern_c": 0.5}, "qform .*quaternion"),
            ({"qform_code": 1, "quatern_b": np.nan}, "qform .*not"),
            ({"qform_code": 1, "pixdim": [1, 1, 0, 1, 1, 1, 1, 1]}, "qform .*sizes .*0.0, 1.0"),
            ({"pixdim": [1, 1, np.nan, 1, 1, 1, 1, 1]}, "voxel sizes .*nan"),
        ],
    )
    def test_a_broken_form_is_refused_with_its_cause(self, tmp_path, fields, cause):
        with pytest.raises(InputError, match=rf"a\.nii: .*{cause}"):
            read_image(save(tmp_path / "a.nii", **fields))

    def test_forms_that_disagree_are_told(self, tmp_path):
        path = save(tmp_path / "a.nii", srow=ROTATED, sform_code=1, qform_code=2)
        with pytest.warns(UserWarning, match=r"a\.nii: the sform .*and the qform .*the sform is"):
            image = read_image(path)
        np.testing.assert_array_equal(image.affine.numpy(), ROTATED)

    def test_forms_that_agree_are_not_told(self, tmp_path, recwarn):
        nib.save(nib.Nifti1Image(VALUES, ROTATED), tmp_path / "a.nii")
        made = nib.load(tmp_path / "a.nii")
        made.set_qform(ROTATED, 1)
        nib.save(made, tmp_path / "b.nii")
        read_image(tmp_path / "b.nii")
        assert not recwarn.list

    def test_a_file_without_a_header_is_refused(self, tmp_path):
        (tmp_path / "a.nii").write_bytes(bytes(600))
        with pytest.raises(InputError, match=r"a\.nii: .*no NIfTI header"):
            read_image(tmp_path / "a.nii")


class TestSize:
    @pytest.mark.parametrize("lost", [-2, 2])
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_values_that_do_not_fit_the_header(self, tmp_path, name, lost):
        content = save(tmp_path / "whole.nii").read_bytes()
        content = content[:-lost] if lost > 0 else content + bytes(-lost)
        (tmp_path / name).write_bytes(gzip.compress(content) if ".gz" in name else content)
        with pytest.raises(InputError, match=rf"{name}: expected 400 bytes .*found"):
            read_image(tmp_path / name)

    def test_no_voxels(self, tmp_path):
        path = save(tmp_path / "a.nii", dim=[3, 2, 0, 4, 1, 1, 1, 1])
        with pytest.raises(InputError, match=r"expected a volume .*found \(2, 0, 4\)"):
            read_image(path)


class TestCompressed:
    @pytest.fixture(scope="class")
    def compressed(self, tmp_path_factory) -> tuple[bytes, np.ndarray]:
        path = tmp_path_factory.mktemp("gz") / "a.nii"
        values = np.random.default_rng(0).integers(0, 4096, (9, 8, 7)).astype(np.int16)
        nib.save(nib.Nifti1Image(values, ROTATED), path)
        return gzip.compress(path.read_bytes(), mtime=0), values

    @given(data=st.data())
    def test_one_flipped_bit_is_refused_or_harmless(self, tmp_path_factory, compressed, data):
        content, values = compressed
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path = tmp_path_factory.getbasetemp() / "flipped.nii.gz"
        path.write_bytes(damaged)
        try:
            image = read_image(path)
        except InputError as error:
            assert str(path) in str(error)
        else:
            np.testing.assert_array_equal(image.numpy()[0], values)

    @pytest.mark.parametrize("lost", [1, 4, 8, 20, 600])
    def test_truncated(self, tmp_path, compressed, lost):
        (tmp_path / "a.nii.gz").write_bytes(compressed[0][:-lost])
        with pytest.raises(InputError, match=r"a\.nii\.gz: expected .*cut off"):
            read_image(tmp_path / "a.nii.gz")

    def test_what_follows(self, tmp_path, compressed):
        content, values = compressed
        path = tmp_path / "a.nii.gz"
        path.write_bytes(content + b"something else")
        with pytest.raises(InputError, match=r"a\.nii\.gz: expected .*intact"):
            read_image(path)
        plain = gzip.decompress(content)
        for same in (content + bytes(100), gzip.compress(plain[:500]) + gzip.compress(plain[500:])):
            path.write_bytes(same)
            np.testing.assert_array_equal(read_image(path).numpy()[0], values)

    def test_formats_and_scaling_are_nibabels(self, tmp_path):
        for kind in (nib.Nifti1Image, nib.Nifti2Image):
            for endian in "<>":
                made = kind(VALUES, ROTATED, kind.header_class(endianness=endian))
                made.header.set_slope_inter(0.25, -3)
                nib.save(made, tmp_path / "a.nii.gz")
                expected = nib.load(tmp_path / "a.nii.gz").get_fdata()
                np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz")[0], expected)

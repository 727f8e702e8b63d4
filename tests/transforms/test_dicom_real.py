import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from transforms.dicom import list_series
from transforms.dicom.header import header_of
from transforms.dicom.pixels import decode
from transforms.errors import InputError
from transforms.readers import read_image

pytestmark = pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="no AEFLOW_DATA_DIR")
SYNTAXES = sorted(f"{number}.dcm" for number in range(1, 10))
MOSAIC = "Siemens mosaic"
TEXTS = ("PatientName", "StudyDescription", "SeriesDescription")


def data(*parts: str) -> Path:
    return Path(os.environ["AEFLOW_DATA_DIR"], "dicom", *parts)


# What each folder becomes: the shape of its volume, or the reason why there is none.
OUTCOMES = {
    "ct_3slice_with_seg": (1, 512, 512, 3),
    "ct_3slice_with_seg/ct-3slice": (1, 512, 512, 3),
    "geometry_noise_pixels/failing/gantrytilting/001": "IM-0001-0004.dcm is shifted .*14.00 deg",
    "geometry_noise_pixels/failing/notavolume/001": "4 slices at 1 positions, e.g. 001.dcm, 002",
    "geometry_noise_pixels/failing/slicecount/001": (1, 256, 256, 2),
    "geometry_noise_pixels/failing/sliceincrement/001": "10.000 mm between IM-0001-0009-0001.dcm",
    "geometry_noise_pixels/failing/sliceincrement/002": "IM-0001-0005.dcm is shifted .*15.50 deg",
    "geometry_noise_pixels/failing/sliceorientation/001": "one ImageOrientationPatient, found",
    "geometry_noise_pixels/generic/rgb/001": "found colour",
    "geometry_noise_pixels/hitachi/anatomical/001": (1, 64, 64, 4),
    "geometry_noise_pixels/philips_enhanced/anatomical/001": (1, 256, 256, 8),
    "geometry_noise_pixels/siemens/anatomical/001": (1, 256, 256, 4),
    "geometry_noise_pixels/siemens_multiframe/anatomical/001": (1, 256, 256, 8),
    "monochrome1": r"found 2: 1\.3\.6.* \(CR, series 1, 2 files",
    "mr_epi_ge": "150 slices at 15 positions.*00001.dcm, .*00016.dcm.*time points",
    "mr_oblique_mosaic/axasc36": MOSAIC,
    "mr_oblique_mosaic/corasc36": MOSAIC,
    "mr_oblique_mosaic/sagasc36": MOSAIC,
    "multiframe": "expected one series, found 3: .*US.*CT.*MR",
    "transfer_syntaxes": MOSAIC,
    "": "expected one series, found 22",
}
FILES = {
    "ct_3slice_with_seg/liver.dcm": "found a segmentation",
    "ct_3slice_with_seg/partial_overlaps.dcm": "found a segmentation",
    "ct_3slice_with_seg/sparse-labelmap-noppv.dcm": "found a label map",
    "ct_3slice_with_seg/sparse-labelmap-ppv5.dcm": "found a label map",
    "multiframe/OBXXXX1A_rle_2frame.dcm": "PALETTE COLOR",
    "multiframe/eCT_Supplemental.dcm": "PixelPresentation COLOR",
    "multiframe/emri_small.dcm": "where each of 10 frame.* lies, found none",
    "multiframe/emri_small_RLE.dcm": "where each of 10 frame.* lies, found none",
    "multiframe/emri_small_big_endian.dcm": "where each of 10 frame.* lies, found none",
    "multiframe/emri_small_jpeg_2k_lossless.dcm": "where each of 10 frame.* lies, found none",
    "multiframe/emri_small_jpeg_2k_lossless_too_short.dcm": "where each of 10 frame",
    "multiframe/emri_small_jpeg_ls_lossless.dcm": "where each of 10 frame.* lies, found none",
}


@pytest.mark.filterwarnings("ignore:.*passed over")
@pytest.mark.parametrize("name", OUTCOMES)
def test_every_folder_is_read_or_refused(name):
    outcome = OUTCOMES[name]
    if isinstance(outcome, tuple):
        image = read_image(data(name))
        assert image.shape == outcome
        assert len(image.meta["dicom_files"]) in (1, outcome[-1])
        return
    with pytest.raises(InputError, match=outcome) as caught:
        read_image(data(name))
    assert str(data(name)) in str(caught.value)


def test_no_folder_is_forgotten():
    folders = {path.parent for path in data().rglob("*") if path.is_file()}
    assert {str(folder.relative_to(data())) for folder in folders} <= set(OUTCOMES)


@pytest.mark.parametrize("name", FILES)
def test_special_files_are_refused_with_the_cause(name):
    with pytest.raises(InputError, match=FILES[name]) as caught:
        read_image(data(name))
    assert Path(name).name in str(caught.value)


class TestPixels:
    def test_nine_transfer_syntaxes_are_identical(self, tmp_path):
        """The files are mosaics, which are refused; as plain slices their pixels are the same."""
        reference = pydicom.dcmread(data("transfer_syntaxes", SYNTAXES[0])).pixel_array
        syntaxes = set()
        for name in SYNTAXES:
            with pytest.raises(InputError, match=MOSAIC):
                read_image(data("transfer_syntaxes", name))
            dataset = pydicom.dcmread(data("transfer_syntaxes", name))
            syntaxes.add(dataset.file_meta.TransferSyntaxUID)
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
            dataset.save_as(tmp_path / name)
            found = read_image(tmp_path / name).numpy()[0]
            np.testing.assert_array_equal(found, reference)
            assert reference.max() > 1000
        assert len(syntaxes) == 7

    @pytest.mark.parametrize(
        "name",
        ["emri_small_RLE", "emri_small_big_endian", "emri_small_jpeg_ls_lossless"]
        + ["emri_small_jpeg_2k_lossless"],
    )
    def test_ten_frames_decode_alike_in_every_syntax(self, name):
        reference = pydicom.dcmread(data("multiframe", "emri_small.dcm")).pixel_array
        path = data("multiframe", f"{name}.dcm")
        header = header_of(path, pydicom.dcmread(path), frames=10)
        np.testing.assert_array_equal(decode(header), reference)

    def test_truncated_frames_are_refused(self, tmp_path):
        path = data("multiframe", "emri_small_jpeg_2k_lossless_too_short.dcm")
        with pytest.raises(InputError, match="too_short.*cut-off"):
            decode(header_of(path, pydicom.dcmread(path, stop_before_pixels=True), frames=10))
        enhanced = next(data("geometry_noise_pixels", "siemens_multiframe").rglob("*.dcm"))
        content = enhanced.read_bytes()
        for lost in (2, 5000, len(content) // 2):
            (tmp_path / "cut.dcm").write_bytes(content[:-lost])
            with pytest.raises(InputError, match="cut"):
                read_image(tmp_path / "cut.dcm")

    def test_monochrome1_is_inverted(self):
        path = data("monochrome1", "RG3_J2KR.dcm")
        dataset = pydicom.dcmread(path)
        slope = float(dataset.get("RescaleSlope") or 1)
        intercept = float(dataset.get("RescaleIntercept") or 0)
        stored = dataset.pixel_array.astype(np.float64)
        image = read_image(path)
        expected = (2**dataset.BitsStored - 1 - stored) * slope + intercept
        np.testing.assert_allclose(image.numpy()[0], expected)
        assert image.meta["bit_depth"] == 16


class TestByHand:
    """Volumes put together with pydicom and NumPy, compared in the patient's space."""

    @pytest.mark.parametrize(
        "name",
        ["ct_3slice_with_seg/ct-3slice", "geometry_noise_pixels/siemens/anatomical/001"]
        + ["geometry_noise_pixels/hitachi/anatomical/001"],
    )
    def test_every_voxel_of_a_series(self, name):
        image = read_image(data(name))
        inverse = np.linalg.inv(image.affine.numpy())
        seen = set()
        for path in data(name).iterdir():
            item = pydicom.dcmread(path)
            rows, columns = np.indices(item.pixel_array.shape)
            across, down = np.array(item.ImageOrientationPatient, float).reshape(2, 3)
            lps = (
                np.array(item.ImagePositionPatient, float)
                + columns[..., None] * float(item.PixelSpacing[1]) * across
                + rows[..., None] * float(item.PixelSpacing[0]) * down
            )
            voxels = lps * (-1, -1, 1) @ inverse[:3, :3].T + inverse[:3, 3]
            i, j, k = np.rint(voxels).astype(int).transpose(2, 0, 1)
            np.testing.assert_allclose(voxels, np.stack([i, j, k], -1), atol=2e-3)
            values = item.pixel_array * float(item.get("RescaleSlope") or 1)
            values = values + float(item.get("RescaleIntercept") or 0)
            np.testing.assert_array_equal(image.numpy()[0, i, j, k], values)
            assert image.meta["dicom_files"][k[0, 0]] == str(path)
            seen.add(k[0, 0])
        assert seen == set(range(image.shape[-1]))

    @pytest.mark.parametrize("vendor", ["philips_enhanced", "siemens_multiframe"])
    def test_every_frame_of_an_enhanced_object(self, vendor):
        path = next(data("geometry_noise_pixels", vendor).rglob("*.dcm"))
        image, item = read_image(path), pydicom.dcmread(path)
        for k, frame in enumerate(image.meta["dicom_frames"]):
            groups = item.PerFrameFunctionalGroupsSequence[frame]
            position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
            found = image.affine.numpy() @ (0, 0, k, 1)
            np.testing.assert_allclose(found[:3], position * (-1, -1, 1), atol=1e-2)
            rescaling = groups.PixelValueTransformationSequence[0]
            slope, intercept = float(rescaling.RescaleSlope), float(rescaling.RescaleIntercept)
            expected = item.pixel_array[frame].T * slope + intercept
            np.testing.assert_allclose(image.numpy()[0, :, :, k], expected, rtol=1e-6)
        assert image.meta["dicom_files"] == (str(path),)
        assert np.linalg.det(image.affine.numpy()[:3, :3]) > 0


class TestSeries:
    def test_reports_and_segmentations_are_passed_over(self):
        with pytest.warns(UserWarning, match=r"passed over 4 DICOM objects \(4 SEG\)"):
            read_image(data("ct_3slice_with_seg"))

    def test_one_of_many_by_its_uid(self):
        series = list_series(data(), recursive=True)
        assert len(series) == 25
        readable = [info for info in series if not info.problem]
        assert len(readable) == 7
        for info in readable:
            if len(info.shape) == 3:
                image = read_image(info.path, series_uid=info.uid)
                assert image.shape == (1, *info.shape)
                assert image.meta["series_uid"] == info.uid
        ct = next(info for info in readable if info.modality == "CT")
        with pytest.warns(UserWarning, match="passed over 4"):
            image = read_image(data("ct_3slice_with_seg"), series_uid=ct.uid)
        assert image.shape == (1, 512, 512, 3)

    def test_nothing_of_a_header_is_told_that_may_name_a_patient(self):
        told = " ".join(str(info) + info.problem for info in list_series(data(), recursive=True))
        for path in data().rglob("*"):
            if path.is_file() and "mr_epi_ge" not in path.parts:
                item = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TEXTS))
                for keyword in TEXTS:
                    text = str(item.get(keyword) or "")
                    assert len(text) < 4 or text not in told

"""The slices that DICOM results refer to: which are taken, and which are refused."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest

from pipelines.outputs.dicom_objects import write_parametric_map, write_segmentation
from pipelines.outputs.dicom_source import read_stack
from transforms.errors import InputError

highdicom = pytest.importorskip("highdicom")

Series = SimpleNamespace
needs_data = pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="no AEFLOW_DATA_DIR")


def data(*parts: str) -> Path:
    return Path(os.environ["AEFLOW_DATA_DIR"], "dicom", *parts)


def test_frames_of_an_enhanced_file_are_chosen_by_number(
    made: Series, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mask, anomaly_map = made.volumes()
    # Two volumes in one file, the second one in descending order.
    path = made.enhanced(tmp_path / "e.dcm", [0, 1, 2, 3, 3, 2, 1, 0])
    with caplog.at_level("WARNING", logger="highdicom"):  # whatever other tests have set
        outputs = made.write_both(tmp_path, mask, anomaly_map, [path], [7, 6, 5, 4])
    for output, volume in zip(outputs, (mask, anomaly_map), strict=True):
        np.testing.assert_array_equal(
            made.resampled(output, made.affine(made.OBLIQUE), mask.shape), volume
        )
        assert len(output.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1
        assert output.SourceImageSequence[0].ReferencedFrameNumber == [8, 7, 6, 5]
    assert not [record for record in caplog.records if record.name.startswith("highdicom")]
    segmentation = highdicom.seg.segread(tmp_path / "mask.dcm")
    uid = pydicom.dcmread(path).SOPInstanceUID
    pixels = segmentation.get_pixels_by_source_frame(uid, [8, 7, 6, 5])[..., 0]
    np.testing.assert_array_equal(pixels.transpose(2, 1, 0), mask)


def test_all_frames_of_an_enhanced_file_are_taken_as_stored(made: Series, tmp_path: Path) -> None:
    mask, anomaly_map = made.volumes()
    path = made.enhanced(tmp_path / "e.dcm", [0, 1, 2, 3])
    output, _ = made.write_both(tmp_path, mask, anomaly_map, [path])
    np.testing.assert_array_equal(
        made.resampled(output, made.affine(made.OBLIQUE), mask.shape), mask
    )


def test_slices_may_differ_in_the_last_digits_of_their_orientation(
    made: Series, tmp_path: Path
) -> None:
    mask, anomaly_map = made.volumes()
    files = made.series(tmp_path)
    with pydicom.config.disable_value_validation():
        header = pydicom.dcmread(files[2])
        header.ImageOrientationPatient = [0.80001, *made.OBLIQUE[1:]]
        header.save_as(files[2])
    for output in made.write_both(tmp_path, mask, anomaly_map, files):
        orientation = output.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
        assert orientation.ImageOrientationPatient == made.OBLIQUE


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"FrameOfReferenceUID": None}, "FrameOfReferenceUID"),
        ({"SeriesInstanceUID": ""}, "SeriesInstanceUID"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient of 3 numbers"),
        ({"PixelSpacing": ""}, "PixelSpacing of 2 numbers"),
        ({"ImagePositionPatient": [1, 2, 3]}, "ascending order"),
        ({"Rows": 7, "Columns": 5}, r"expected the shape \(5, 7, 4\)"),
    ],
)
def test_sources_that_cannot_place_a_result_are_refused(
    made: Series, tmp_path: Path, elements: dict[str, Any], message: str
) -> None:
    files = made.series(tmp_path, **elements)
    results = tmp_path / "results"
    results.mkdir()
    with pytest.raises(InputError, match=message):
        write_segmentation(
            results / "a.dcm",
            made.volumes()[0],
            read_stack(files),
            threshold=3.0,
            model_version="1",
        )
    with pytest.raises(InputError, match=message):
        write_parametric_map(
            results / "a.dcm", made.volumes()[1], read_stack(files), model_version="1"
        )
    assert not list(results.iterdir())


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"SeriesInstanceUID": "1.9"}, "one SeriesInstanceUID"),
        ({"FrameOfReferenceUID": "1.9"}, "one FrameOfReferenceUID"),
        ({"Columns": 9}, "one Columns"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "parallel slices"),
        ({"PixelSpacing": [0.5, 0.8]}, "parallel slices"),
    ],
)
def test_slices_that_do_not_belong_together_are_refused(
    made: Series, tmp_path: Path, elements: dict[str, Any], message: str
) -> None:
    files = made.series(tmp_path)
    header = pydicom.dcmread(files[1])
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    header.save_as(files[1])
    with pytest.raises(InputError, match=message):
        made.write_both(tmp_path, *made.volumes(), files)


def test_files_in_another_order_are_refused(made: Series, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ascending order"):
        made.write_both(tmp_path, *made.volumes(), made.series(tmp_path)[::-1])
    path = made.enhanced(tmp_path / "e.dcm", [3, 2, 1, 0])
    with pytest.raises(InputError, match="ascending order"):
        made.write_both(tmp_path, *made.volumes(), [path])


def test_frames_that_are_not_there_are_refused(made: Series, tmp_path: Path) -> None:
    path = made.enhanced(tmp_path / "e.dcm", [0, 1, 2, 3])
    for frames in ([1, 2, 3, 4], [-1, 0, 1, 2], []):
        with pytest.raises(InputError, match="frames: expected numbers from 0 to 3"):
            made.write_both(tmp_path, *made.volumes(), [path], frames)
    with pytest.raises(InputError, match="frames: expected None"):
        made.write_both(tmp_path, *made.volumes(), made.series(tmp_path), [0, 1, 2, 3])
    with pytest.raises(InputError, match="one enhanced file"):
        made.write_both(tmp_path, *made.volumes(), [path, path])
    with pytest.raises(InputError, match="found none"):
        made.write_both(tmp_path, *made.volumes(), [])


def test_files_that_are_not_dicom_are_refused(made: Series, tmp_path: Path) -> None:
    for content in (b"", b"not DICOM", b"\0" * 128 + b"DICM" + b"x" * 100):
        path = tmp_path / "x.dcm"
        path.write_bytes(content)
        with pytest.raises(InputError, match="x.dcm"):
            made.write_both(tmp_path, *made.volumes(), [path])
    with pytest.raises(InputError, match="gone.dcm"):
        made.write_both(tmp_path, *made.volumes(), [tmp_path / "gone.dcm"])


@needs_data
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("multiframe", "emri_small.dcm"), "ImagePositionPatient"),
        (("multiframe", "OBXXXX1A_rle_2frame.dcm"), "FrameOfReferenceUID"),
        (("geometry_noise_pixels", "hitachi", "anatomical", "001", "001.dcm"), "FrameOfReference"),
    ],
)
def test_real_files_without_a_place_are_refused(
    made: Series, tmp_path: Path, parts: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        made.write_both(tmp_path, *made.volumes(), [data(*parts)])


@needs_data
def test_a_real_enhanced_ct(made: Series, tmp_path: Path) -> None:
    # Its orientation makes the normal point to the feet, so that its last frame comes first.
    path = data("multiframe", "eCT_Supplemental.dcm")
    mask, anomaly_map = made.volumes((512, 512, 2))
    lps = np.diag([-0.388672, 0.388672, -10.0, 1.0])
    lps[:3, 3] = (99.5, -301.5, -149.0)
    outputs = made.write_both(tmp_path, mask, anomaly_map, [path], [1, 0])
    for output, volume in zip(outputs, (mask, anomaly_map), strict=True):
        np.testing.assert_array_equal(made.resampled(output, lps, mask.shape), volume)
    with pytest.raises(InputError, match="ascending order"):
        made.write_both(tmp_path, mask, anomaly_map, [path])

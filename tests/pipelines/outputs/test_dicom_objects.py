import builtins
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from pipelines.outputs.dicom_objects import write_parametric_map, write_segmentation
from transforms.errors import InputError

highdicom = pytest.importorskip("highdicom")

needs_data = pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="no AEFLOW_DATA_DIR")

NAME = "Doe-without-caret"
ROWS, COLUMNS, SLICES = 5, 7, 4  # 35 pixels, so that frames do not end at whole bytes
SPACING = (0.5, 0.75)
GAP = 2.5
OBLIQUE = [0.8, 0.6, 0.0, -0.36, 0.48, -0.8]
ORIENTATIONS = {
    "axial": [1, 0, 0, 0, 1, 0],
    "feet first, seen from above": [-1, 0, 0, 0, 1, 0],
    "coronal": [1, 0, 0, 0, 0, -1],
    "oblique": OBLIQUE,
}


def data(*parts: str) -> Path:
    return Path(os.environ["AEFLOW_DATA_DIR"], "dicom", *parts)


def position(orientation: list[float], index: int) -> list[float]:
    normal = np.cross(orientation[:3], orientation[3:])
    return [round(float(x), 6) for x in np.array([-30.0, 12.5, 7.25]) + index * GAP * normal]


def save(path: Path, **elements: Any) -> Path:
    """Writes an image without pixels; elements of None are left out."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    defaults = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": "1.2.3.1",
        "SeriesInstanceUID": "1.2.3.2",
        "FrameOfReferenceUID": "1.2.3.3",
        "Modality": "MR",
        "PatientName": NAME,
        "PatientID": "ID4711",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "PatientComments": "afraid of spiders",
        "StudyDate": "20200304",
        "StudyTime": "101112",
        "StudyID": "S1",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "Who^Doctor",
        "Rows": ROWS,
        "Columns": COLUMNS,
    }
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        for keyword, value in {**defaults, **elements}.items():
            if value is not None:
                setattr(dataset, keyword, value)
        meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2")
        meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2")
        dataset.save_as(path)
    return path


def series(
    folder: Path, orientation: list[float] = OBLIQUE, count: int = SLICES, **elements: Any
) -> list[Path]:
    """Writes slices in the order of their normal, under names in another order."""
    return [
        save(
            folder / f"{(index * 5 + 3) % 7}.dcm",
            **{
                "ImageOrientationPatient": orientation,
                "ImagePositionPatient": position(orientation, index),
                "PixelSpacing": list(SPACING),
                **elements,
            },
        )
        for index in range(count)
    ]


def enhanced(path: Path, order: list[int], **elements: Any) -> Path:
    """Writes an enhanced image whose frames lie at the positions of `order`."""
    frames = []
    for index in order:
        place, turn, frame = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = position(OBLIQUE, index)
        turn.ImageOrientationPatient = OBLIQUE
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [place], [turn]
        frames.append(frame)
    measures, shared = pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING), 2
    shared.PixelMeasuresSequence = [measures]
    return save(
        path,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1",
        NumberOfFrames=len(order),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
        **elements,
    )


def affine(orientation: list[float]) -> np.ndarray:
    """From (column, row, slice) to mm, LPS+, for the slices of `series`."""
    matrix = np.eye(4)
    matrix[:3, 0] = np.array(orientation[:3]) * SPACING[1]
    matrix[:3, 1] = np.array(orientation[3:]) * SPACING[0]
    matrix[:3, 2] = np.cross(orientation[:3], orientation[3:]) * GAP
    matrix[:3, 3] = position(orientation, 0)
    return matrix


def volumes(shape: tuple[int, ...] = (COLUMNS, ROWS, SLICES)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random(shape) > 0.6, rng.normal(size=shape).astype(np.float32)


def write_both(
    folder: Path, mask: np.ndarray, anomaly_map: np.ndarray, files: list[Path], frames: Any = None
) -> tuple[pydicom.Dataset, pydicom.Dataset]:
    one = write_segmentation(
        folder / "mask.dcm", mask, files, frames, threshold=3.25, model_version="1.2"
    )
    other = write_parametric_map(
        folder / "map.dcm", anomaly_map, files, frames, model_version="1.2"
    )
    return pydicom.dcmread(one), pydicom.dcmread(other)


def resampled(output: pydicom.Dataset, lps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Puts each pixel of a result where its place in the patient lies in a volume (X, Y, Z)."""
    pixels = output.pixel_array.reshape(-1, output.Rows, output.Columns)
    shared = output.SharedFunctionalGroupsSequence[0]
    across, down = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3))
    rows, columns = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=np.float64)
    row, column = np.meshgrid(np.arange(output.Rows), np.arange(output.Columns), indexing="ij")
    found = np.full(shape, np.nan)
    for frame, groups in zip(pixels, output.PerFrameFunctionalGroupsSequence, strict=True):
        origin = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
        place = origin + column[..., None] * columns * across + row[..., None] * rows * down
        index = (place - lps[:3, 3]) @ np.linalg.inv(lps[:3, :3]).T
        assert np.abs(index - index.round()).max() < 1e-3
        found[tuple(np.moveaxis(index.round().astype(int), -1, 0))] = frame
    return found


def sources(output: pydicom.Dataset) -> list[pydicom.Dataset]:
    return [
        groups.DerivationImageSequence[0].SourceImageSequence[0]
        for groups in output.PerFrameFunctionalGroupsSequence
    ]


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_every_voxel_keeps_its_place_and_its_value(
    tmp_path: Path, orientation: list[float]
) -> None:
    mask, anomaly_map = volumes()
    files = series(tmp_path, orientation, SliceThickness=2)
    outputs = write_both(tmp_path, mask, anomaly_map, files)
    for output, volume in zip(outputs, (mask, anomaly_map), strict=True):
        np.testing.assert_array_equal(resampled(output, affine(orientation), mask.shape), volume)
        measures = output.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert (measures.PixelSpacing, measures.SliceThickness) == (list(SPACING), 2)
        assert measures.SpacingBetweenSlices == GAP


def test_results_refer_to_the_series_and_each_frame_to_its_slice(tmp_path: Path) -> None:
    files = series(tmp_path)
    uids = {
        tuple(header.ImagePositionPatient): header.SOPInstanceUID
        for header in map(pydicom.dcmread, files)
    }
    for output in write_both(tmp_path, *volumes(), files):
        assert (output.StudyInstanceUID, output.FrameOfReferenceUID) == ("1.2.3.1", "1.2.3.3")
        assert output.SeriesInstanceUID != "1.2.3.2"
        (reference,) = output.ReferencedSeriesSequence
        assert reference.SeriesInstanceUID == "1.2.3.2"
        instances = [item.ReferencedSOPInstanceUID for item in reference.ReferencedInstanceSequence]
        assert sorted(instances) == sorted(uids.values())
        assert len(output.SourceImageSequence) == SLICES
        for source, groups in zip(
            sources(output), output.PerFrameFunctionalGroupsSequence, strict=True
        ):
            place = tuple(groups.PlanePositionSequence[0].ImagePositionPatient)
            assert source.ReferencedSOPInstanceUID == uids[place]
            assert "ReferencedFrameNumber" not in source


def test_highdicom_finds_the_mask_by_its_source(tmp_path: Path) -> None:
    mask, anomaly_map = volumes()
    files = series(tmp_path)
    write_both(tmp_path, mask, anomaly_map, files)
    segmentation = highdicom.seg.segread(tmp_path / "mask.dcm")
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in files]
    pixels = segmentation.get_pixels_by_source_instance(uids)[..., 0]
    np.testing.assert_array_equal(pixels.transpose(2, 1, 0), mask)
    segment = segmentation.get_segment_description(1)
    assert segment.segment_label == "Suspicious (AE-Flow)"
    assert segment.algorithm_type.value == "AUTOMATIC"
    algorithm = segment.algorithm_identification
    assert (algorithm.name, algorithm.version) == ("AE-Flow", "1.2")
    assert algorithm.parameters == {"threshold": "3.25"}
    assert segment.segmented_property_category.value == "49755003"
    assert segment.segmented_property_type.value == "52988006"
    assert segment.tracking_id and segment.tracking_uid


def test_the_map_says_its_quantity_and_that_it_is_for_research(tmp_path: Path) -> None:
    mask, anomaly_map = volumes()
    segmentation, output = write_both(tmp_path, mask, anomaly_map, series(tmp_path))
    assert output.pixel_array.dtype == np.float32
    (mapping,) = output.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == anomaly_map.max()
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeMeaning == "Z-score"
    assert output.ContentQualification == "RESEARCH"
    for result in (segmentation, output):
        assert result.SeriesDescription.startswith("AE-Flow anomaly")
        assert "research" in result.SeriesDescription


def test_an_empty_mask_and_a_constant_map_are_written_whole(tmp_path: Path) -> None:
    mask, anomaly_map = volumes()
    outputs = write_both(tmp_path, mask & False, anomaly_map * 0, series(tmp_path))
    for output in outputs:
        assert output.NumberOfFrames == SLICES
        assert not output.pixel_array.any()


def test_slices_without_a_finding_are_written_too(tmp_path: Path) -> None:
    mask, anomaly_map = volumes()
    mask[..., 1:] = False
    output, _ = write_both(tmp_path, mask, anomaly_map, series(tmp_path))
    np.testing.assert_array_equal(resampled(output, affine(OBLIQUE), mask.shape), mask)


def test_one_slice_of_unknown_thickness_gets_none(tmp_path: Path) -> None:
    mask, anomaly_map = volumes((COLUMNS, ROWS, 1))
    outputs = write_both(tmp_path, mask, anomaly_map, series(tmp_path, count=1, NumberOfFrames=1))
    for output, volume in zip(outputs, (mask, anomaly_map), strict=True):
        np.testing.assert_array_equal(resampled(output, affine(OBLIQUE), mask.shape), volume)
        measures = output.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert measures.SliceThickness is None
        assert "SpacingBetweenSlices" not in measures
    assert highdicom.seg.segread(tmp_path / "mask.dcm").number_of_segments == 1


def test_slices_of_unknown_thickness_are_as_thick_as_they_are_far_apart(tmp_path: Path) -> None:
    for output in write_both(tmp_path, *volumes(), series(tmp_path)):
        measures = output.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert measures.SliceThickness == GAP


def test_frames_of_an_enhanced_file_are_chosen_by_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mask, anomaly_map = volumes()
    # Two volumes in one file, the second one in descending order.
    path = enhanced(tmp_path / "e.dcm", [0, 1, 2, 3, 3, 2, 1, 0])
    outputs = write_both(tmp_path, mask, anomaly_map, [path], [7, 6, 5, 4])
    for output, volume in zip(outputs, (mask, anomaly_map), strict=True):
        np.testing.assert_array_equal(resampled(output, affine(OBLIQUE), mask.shape), volume)
        assert len(output.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1
        assert output.SourceImageSequence[0].ReferencedFrameNumber == [8, 7, 6, 5]
    assert not [record for record in caplog.records if record.name.startswith("highdicom")]
    segmentation = highdicom.seg.segread(tmp_path / "mask.dcm")
    uid = pydicom.dcmread(path).SOPInstanceUID
    pixels = segmentation.get_pixels_by_source_frame(uid, [8, 7, 6, 5])[..., 0]
    np.testing.assert_array_equal(pixels.transpose(2, 1, 0), mask)


def test_all_frames_of_an_enhanced_file_are_taken_as_stored(tmp_path: Path) -> None:
    mask, anomaly_map = volumes()
    path = enhanced(tmp_path / "e.dcm", [0, 1, 2, 3])
    output, _ = write_both(tmp_path, mask, anomaly_map, [path])
    np.testing.assert_array_equal(resampled(output, affine(OBLIQUE), mask.shape), mask)


@pytest.mark.parametrize(
    "elements",
    [
        {"SpecificCharacterSet": ""},
        {"SpecificCharacterSet": "nonsense"},
        {"SpecificCharacterSet": None, "PatientSex": "male", "StudyDate": "2020-03-04"},
        {"PatientName": "", "PatientBirthDate": "", "PatientSex": "", "StudyTime": "noon"},
        {"PatientBirthDate": "around 1970", "SliceThickness": "", "LossyImageCompression": "01"},
        {"SOPClassUID": "1.3.46.670589.11.0.0.12.1", "FrameOfReferenceUID": "1.2.003"},
        dict.fromkeys(
            (
                *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate"),
                *("StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "Modality"),
            )
        ),
    ],
)
def test_missing_and_odd_elements_do_not_stop_a_result(
    tmp_path: Path,
    elements: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mask, anomaly_map = volumes()
    files = series(tmp_path, **elements)
    strict = pydicom.config.RAISE
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", strict)
    with warnings.catch_warnings(record=True) as raised, caplog.at_level("DEBUG"):
        warnings.simplefilter("always")
        write_both(tmp_path, mask, anomaly_map, files)
    # Others, of unclosed resources, come whenever memory is freed.
    assert not [warning for warning in raised if issubclass(warning.category, UserWarning)]
    # highdicom logs random UIDs, which may hold any digits.
    log = re.sub(r"\b[12](\.\d+)+", "UID", caplog.text)
    assert NAME not in caplog.text and "1970" not in log
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = pydicom.dcmread(files[0])
        for name, volume in (("mask.dcm", mask), ("map.dcm", anomaly_map)):
            output = pydicom.dcmread(tmp_path / name)
            np.testing.assert_array_equal(resampled(output, affine(OBLIQUE), mask.shape), volume)
            for keyword in ("PatientName", "PatientID", "PatientSex", "PatientBirthDate"):
                assert output[keyword].value == source.get(keyword, "")
            assert output.LossyImageCompression == source.get("LossyImageCompression", "00")
            assert {source.SOPClassUID} == {
                reference.ReferencedSOPClassUID for reference in sources(output)
            }


@pytest.mark.parametrize(
    ("character_set", "name"),
    [("ISO_IR 100", "Müller^Åsa"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")],
)
def test_names_in_other_scripts_arrive(
    tmp_path: Path, character_set: str | list[str], name: str
) -> None:
    files = series(tmp_path, SpecificCharacterSet=character_set, PatientName=name)
    assert str(pydicom.dcmread(files[0]).PatientName) == name
    for output in write_both(tmp_path, *volumes(), files):
        assert str(output.PatientName) == name


def test_no_more_of_the_patient_is_written_than_dicom_needs(tmp_path: Path) -> None:
    for output in write_both(tmp_path, *volumes(), series(tmp_path)):
        assert output.PatientID == "ID4711"
        assert "PatientComments" not in output


def test_slices_may_differ_in_the_last_digits_of_their_orientation(tmp_path: Path) -> None:
    mask, anomaly_map = volumes()
    files = series(tmp_path)
    with pydicom.config.disable_value_validation():
        header = pydicom.dcmread(files[2])
        header.ImageOrientationPatient = [0.80001, *OBLIQUE[1:]]
        header.save_as(files[2])
    for output in write_both(tmp_path, mask, anomaly_map, files):
        orientation = output.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
        assert orientation.ImageOrientationPatient == OBLIQUE


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"FrameOfReferenceUID": None}, "FrameOfReferenceUID"),
        ({"SeriesInstanceUID": ""}, "SeriesInstanceUID"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient of 3 numbers"),
        ({"PixelSpacing": ""}, "PixelSpacing of 2 numbers"),
        ({"ImagePositionPatient": [1, 2, 3]}, "ascending order"),
        ({"Rows": COLUMNS, "Columns": ROWS}, r"expected the shape \(5, 7, 4\)"),
    ],
)
def test_sources_that_cannot_place_a_result_are_refused(
    tmp_path: Path, elements: dict[str, Any], message: str
) -> None:
    files = series(tmp_path, **elements)
    results = tmp_path / "results"
    results.mkdir()
    with pytest.raises(InputError, match=message):
        write_segmentation(results / "a.dcm", volumes()[0], files, threshold=3.0, model_version="1")
    with pytest.raises(InputError, match=message):
        write_parametric_map(results / "a.dcm", volumes()[1], files, model_version="1")
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
    tmp_path: Path, elements: dict[str, Any], message: str
) -> None:
    files = series(tmp_path)
    header = pydicom.dcmread(files[1])
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    header.save_as(files[1])
    with pytest.raises(InputError, match=message):
        write_both(tmp_path, *volumes(), files)


def test_files_in_another_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ascending order"):
        write_both(tmp_path, *volumes(), series(tmp_path)[::-1])
    path = enhanced(tmp_path / "e.dcm", [3, 2, 1, 0])
    with pytest.raises(InputError, match="ascending order"):
        write_both(tmp_path, *volumes(), [path])


def test_frames_that_are_not_there_are_refused(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "e.dcm", [0, 1, 2, 3])
    for frames in ([1, 2, 3, 4], [-1, 0, 1, 2], []):
        with pytest.raises(InputError, match="frames: expected numbers from 0 to 3"):
            write_both(tmp_path, *volumes(), [path], frames)
    with pytest.raises(InputError, match="frames: expected None"):
        write_both(tmp_path, *volumes(), series(tmp_path), [0, 1, 2, 3])
    with pytest.raises(InputError, match="one enhanced file"):
        write_both(tmp_path, *volumes(), [path, path])
    with pytest.raises(InputError, match="found none"):
        write_both(tmp_path, *volumes(), [])


def test_files_that_are_not_dicom_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"not DICOM", b"\0" * 128 + b"DICM" + b"x" * 100):
        path = tmp_path / "x.dcm"
        path.write_bytes(content)
        with pytest.raises(InputError, match="x.dcm"):
            write_both(tmp_path, *volumes(), [path])
    with pytest.raises(InputError, match="gone.dcm"):
        write_both(tmp_path, *volumes(), [tmp_path / "gone.dcm"])


def test_values_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    mask, anomaly_map = volumes()
    files = series(tmp_path)
    path = tmp_path / "out.dcm"
    with pytest.raises(InputError, match="mask: expected bool"):
        write_segmentation(
            path,
            anomaly_map,  # type: ignore[arg-type]
            files,
            threshold=3.0,
            model_version="1",
        )
    with pytest.raises(InputError, match="threshold"):
        write_segmentation(path, mask, files, threshold=np.nan, model_version="1")
    for version in ("", "1\\2", "1" * 65, "1\n2"):
        with pytest.raises(InputError, match="model_version"):
            write_segmentation(path, mask, files, threshold=3.0, model_version=version)
        with pytest.raises(InputError, match="model_version"):
            write_parametric_map(path, anomaly_map, files, model_version=version)
    anomaly_map[0, 1, 2] = np.nan
    with pytest.raises(InputError, match="found 1 that"):
        write_parametric_map(path, anomaly_map, files, model_version="1")


def test_a_result_takes_its_place_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, _ = volumes()
    files = series(tmp_path)
    results = tmp_path / "results"
    results.mkdir()
    path = results / "mask.dcm"
    path.write_bytes(b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk full"):
        patched.setattr(pydicom.Dataset, "save_as", fail)
        write_segmentation(path, mask, files, threshold=3.0, model_version="1")
    assert [item.read_bytes() for item in results.iterdir()] == [b"old"]
    assert write_segmentation(path, mask, files, threshold=3.0, model_version="1") == path
    assert list(results.iterdir()) == [path]
    assert pydicom.dcmread(path).Modality == "SEG"


def test_without_highdicom_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = series(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "highdicom"]:
        monkeypatch.delitem(sys.modules, name)
    load = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "highdicom":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pip install highdicom"):
        write_both(tmp_path, *volumes(), files)


@needs_data
def test_a_real_ct_series(tmp_path: Path) -> None:
    from transforms.dicom.reader import read_dicom

    folder = data("ct_3slice_with_seg", "ct-3slice")
    values, ras, _ = read_dicom(folder)
    volume = values[0]
    files = [folder / name for name in ("03.dcm", "02.dcm", "01.dcm")]
    outputs = write_both(tmp_path, volume > 150, volume / 100, files)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ras
    for output, expected in zip(outputs, (volume > 150, volume / 100), strict=True):
        np.testing.assert_array_equal(resampled(output, lps, volume.shape), expected)
        header = pydicom.dcmread(files[0])
        assert output.FrameOfReferenceUID == header.FrameOfReferenceUID
        assert output.ReferencedSeriesSequence[0].SeriesInstanceUID == header.SeriesInstanceUID


@needs_data
def test_a_real_enhanced_ct(tmp_path: Path) -> None:
    # Its orientation makes the normal point to the feet, so that its last frame comes first.
    path = data("multiframe", "eCT_Supplemental.dcm")
    mask, anomaly_map = volumes((512, 512, 2))
    lps = np.diag([-0.388672, 0.388672, -10.0, 1.0])
    lps[:3, 3] = (99.5, -301.5, -149.0)
    outputs = write_both(tmp_path, mask, anomaly_map, [path], [1, 0])
    for output, volume in zip(outputs, (mask, anomaly_map), strict=True):
        np.testing.assert_array_equal(resampled(output, lps, mask.shape), volume)
    with pytest.raises(InputError, match="ascending order"):
        write_both(tmp_path, mask, anomaly_map, [path])


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
    tmp_path: Path, parts: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_both(tmp_path, *volumes(), [data(*parts)])

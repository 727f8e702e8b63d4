"""What the DICOM objects of a result hold."""

import builtins
import os
import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest

from pipelines.outputs.dicom_objects import write_parametric_map, write_segmentation
from pipelines.outputs.dicom_source import read_stack
from transforms.errors import InputError
from transforms.readers import read_image

highdicom = pytest.importorskip("highdicom")

Series = SimpleNamespace
needs_data = pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="no AEFLOW_DATA_DIR")
ORIENTATIONS = {
    "axial": [1, 0, 0, 0, 1, 0],
    "feet first, seen from above": [-1, 0, 0, 0, 1, 0],
    "coronal": [1, 0, 0, 0, 0, -1],
    "oblique": [0.8, 0.6, 0.0, -0.36, 0.48, -0.8],
}


def data(*parts: str) -> Path:
    return Path(os.environ["AEFLOW_DATA_DIR"], "dicom", *parts)


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_every_voxel_keeps_its_place_and_its_value(
    made: Series, tmp_path: Path, orientation: list[float]
) -> None:
    mask, anomaly_map = made.volumes()
    files = made.series(tmp_path, orientation, SliceThickness=2)
    outputs = made.write_both(tmp_path, mask, anomaly_map, files)
    for output, volume in zip(outputs, (mask, anomaly_map), strict=True):
        np.testing.assert_array_equal(
            made.resampled(output, made.affine(orientation), mask.shape), volume
        )
        measures = output.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert (measures.PixelSpacing, measures.SliceThickness) == (list(made.SPACING), 2)
        assert measures.SpacingBetweenSlices == made.GAP


def test_results_refer_to_the_series_and_each_frame_to_its_slice(
    made: Series, tmp_path: Path
) -> None:
    files = made.series(tmp_path)
    uids = {
        tuple(header.ImagePositionPatient): header.SOPInstanceUID
        for header in map(pydicom.dcmread, files)
    }
    for output in made.write_both(tmp_path, *made.volumes(), files):
        assert (output.StudyInstanceUID, output.FrameOfReferenceUID) == ("1.2.3.1", "1.2.3.3")
        assert output.SeriesInstanceUID != "1.2.3.2"
        (reference,) = output.ReferencedSeriesSequence
        assert reference.SeriesInstanceUID == "1.2.3.2"
        instances = [item.ReferencedSOPInstanceUID for item in reference.ReferencedInstanceSequence]
        assert sorted(instances) == sorted(uids.values())
        assert len(output.SourceImageSequence) == made.SLICES
        for source, groups in zip(
            made.sources(output), output.PerFrameFunctionalGroupsSequence, strict=True
        ):
            place = tuple(groups.PlanePositionSequence[0].ImagePositionPatient)
            assert source.ReferencedSOPInstanceUID == uids[place]
            assert "ReferencedFrameNumber" not in source


def test_highdicom_finds_the_mask_by_its_source(made: Series, tmp_path: Path) -> None:
    mask, anomaly_map = made.volumes()
    files = made.series(tmp_path)
    made.write_both(tmp_path, mask, anomaly_map, files)
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


def test_the_map_says_its_quantity_and_that_it_is_for_research(
    made: Series, tmp_path: Path
) -> None:
    mask, anomaly_map = made.volumes()
    segmentation, output = made.write_both(tmp_path, mask, anomaly_map, made.series(tmp_path))
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


def test_an_empty_mask_and_a_constant_map_are_written_whole(made: Series, tmp_path: Path) -> None:
    mask, anomaly_map = made.volumes()
    outputs = made.write_both(tmp_path, mask & False, anomaly_map * 0, made.series(tmp_path))
    for output in outputs:
        assert output.NumberOfFrames == made.SLICES
        assert not output.pixel_array.any()


def test_slices_without_a_finding_are_written_too(made: Series, tmp_path: Path) -> None:
    mask, anomaly_map = made.volumes()
    mask[..., 1:] = False
    output, _ = made.write_both(tmp_path, mask, anomaly_map, made.series(tmp_path))
    np.testing.assert_array_equal(
        made.resampled(output, made.affine(made.OBLIQUE), mask.shape), mask
    )


def test_one_slice_of_unknown_thickness_gets_none(made: Series, tmp_path: Path) -> None:
    mask, anomaly_map = made.volumes((made.COLUMNS, made.ROWS, 1))
    outputs = made.write_both(
        tmp_path, mask, anomaly_map, made.series(tmp_path, count=1, NumberOfFrames=1)
    )
    for output, volume in zip(outputs, (mask, anomaly_map), strict=True):
        np.testing.assert_array_equal(
            made.resampled(output, made.affine(made.OBLIQUE), mask.shape), volume
        )
        measures = output.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert measures.SliceThickness is None
        assert "SpacingBetweenSlices" not in measures
    assert highdicom.seg.segread(tmp_path / "mask.dcm").number_of_segments == 1


def test_slices_of_unknown_thickness_are_as_thick_as_they_are_far_apart(
    made: Series, tmp_path: Path
) -> None:
    for output in made.write_both(tmp_path, *made.volumes(), made.series(tmp_path)):
        measures = output.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert measures.SliceThickness == made.GAP


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
    made: Series,
    tmp_path: Path,
    elements: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mask, anomaly_map = made.volumes()
    files = made.series(tmp_path, **elements)
    strict = pydicom.config.RAISE
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", strict)
    with warnings.catch_warnings(record=True) as raised, caplog.at_level("DEBUG"):
        warnings.simplefilter("always")
        made.write_both(tmp_path, mask, anomaly_map, files)
    # Others, of unclosed resources, come whenever memory is freed.
    assert not [warning for warning in raised if issubclass(warning.category, UserWarning)]
    log = re.sub(r"\b[12](\.\d+)+", "UID", caplog.text)  # random UIDs may hold any digits
    assert made.NAME not in caplog.text and "1970" not in log
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = pydicom.dcmread(files[0])
        for name, volume in (("mask.dcm", mask), ("map.dcm", anomaly_map)):
            output = pydicom.dcmread(tmp_path / name)
            np.testing.assert_array_equal(
                made.resampled(output, made.affine(made.OBLIQUE), mask.shape), volume
            )
            for keyword in ("PatientName", "PatientID", "PatientSex", "PatientBirthDate"):
                assert output[keyword].value == source.get(keyword, "")
            assert output.LossyImageCompression == source.get("LossyImageCompression", "00")
            assert {source.SOPClassUID} == {
                reference.ReferencedSOPClassUID for reference in made.sources(output)
            }


@pytest.mark.parametrize(
    ("character_set", "name"),
    [("ISO_IR 100", "Müller^Åsa"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")],
)
def test_names_in_other_scripts_arrive(
    made: Series, tmp_path: Path, character_set: str | list[str], name: str
) -> None:
    files = made.series(tmp_path, SpecificCharacterSet=character_set, PatientName=name)
    assert str(pydicom.dcmread(files[0]).PatientName) == name
    for output in made.write_both(tmp_path, *made.volumes(), files):
        assert str(output.PatientName) == name


def test_no_more_of_the_patient_is_written_than_dicom_needs(made: Series, tmp_path: Path) -> None:
    for output in made.write_both(tmp_path, *made.volumes(), made.series(tmp_path)):
        assert output.PatientID == "ID4711"
        assert "PatientComments" not in output


def test_values_that_cannot_be_written_are_refused(made: Series, tmp_path: Path) -> None:
    mask, anomaly_map = made.volumes()
    source = read_stack(made.series(tmp_path))
    path = tmp_path / "out.dcm"
    with pytest.raises(InputError, match="mask: expected bool"):
        write_segmentation(
            path,
            anomaly_map,  # type: ignore[arg-type]
            source,
            threshold=3.0,
            model_version="1",
        )
    with pytest.raises(InputError, match="threshold"):
        write_segmentation(path, mask, source, threshold=np.nan, model_version="1")
    for version in ("", "1\\2", "1" * 65, "1\n2"):
        with pytest.raises(InputError, match="model_version"):
            write_segmentation(path, mask, source, threshold=3.0, model_version=version)
        with pytest.raises(InputError, match="model_version"):
            write_parametric_map(path, anomaly_map, source, model_version=version)
    anomaly_map[0, 1, 2] = np.nan
    with pytest.raises(InputError, match="found 1 that"):
        write_parametric_map(path, anomaly_map, source, model_version="1")


def test_a_result_takes_its_place_whole_or_not_at_all(
    made: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, _ = made.volumes()
    source = read_stack(made.series(tmp_path))
    results = tmp_path / "results"
    results.mkdir()
    path = results / "mask.dcm"
    path.write_bytes(b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk full"):
        patched.setattr(pydicom.Dataset, "save_as", fail)
        write_segmentation(path, mask, source, threshold=3.0, model_version="1")
    assert [item.read_bytes() for item in results.iterdir()] == [b"old"]
    assert write_segmentation(path, mask, source, threshold=3.0, model_version="1") == path
    assert list(results.iterdir()) == [path]
    assert pydicom.dcmread(path).Modality == "SEG"


def test_without_highdicom_the_message_says_what_to_install(
    made: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = made.series(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "highdicom"]:
        monkeypatch.delitem(sys.modules, name)
    load = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "highdicom":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pip install highdicom"):
        made.write_both(tmp_path, *made.volumes(), files)


@needs_data
def test_a_real_ct_series(made: Series, tmp_path: Path) -> None:
    folder = data("ct_3slice_with_seg", "ct-3slice")
    image = read_image(folder)
    volume, ras = image.numpy()[0], image.affine.numpy()
    files = [folder / name for name in ("03.dcm", "02.dcm", "01.dcm")]
    outputs = made.write_both(tmp_path, volume > 150, volume / 100, files)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ras
    for output, expected in zip(outputs, (volume > 150, volume / 100), strict=True):
        np.testing.assert_array_equal(made.resampled(output, lps, volume.shape), expected)
        header = pydicom.dcmread(files[0])
        assert output.FrameOfReferenceUID == header.FrameOfReferenceUID
        assert output.ReferencedSeriesSequence[0].SeriesInstanceUID == header.SeriesInstanceUID

"""Results as DICOM: a segmentation and a parametric map that refer to the series they describe.

highdicom builds both. It is shown planes that hold the geometry alone, for which it needs no
completed or corrected headers; what DICOM needs of patient and study is copied from the source
afterwards, as it stands there and in UTF-8, and left empty where the source says nothing.
Positions, orientation and spacing are those of the source. Every frame names the slice it was
derived from.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.utils.module import optional_import
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from pipelines.common import replacing
from pipelines.outputs.dicom_source import (
    REQUIRED_IDENTITY,
    SourcePlane,
    SourceStack,
    verbatim,
)
from transforms.errors import InputError

SEGMENTATION_SERIES_NUMBER = 9701
"""SeriesNumber of segmentations, beyond those that scanners give."""

PARAMETRIC_MAP_SERIES_NUMBER = 9702
"""SeriesNumber of parametric maps, beyond those that scanners give."""

MAP_WINDOW = (5.0, 10.0)
"""Centre and width, in standard deviations, of the window in which viewers first show a map."""

_NAME = "AE-Flow"
_LONGEST = 64  # characters of a DICOM long string
_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
_PLACEHOLDER = 1.0  # mm, for an unknown thickness: highdicom needs one, which is then removed

# By value, since some versions of pydicom lack some of the names.
_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_LESION = Code("52988006", "SCT", "Lesion")
_ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
_Z_SCORE = Code("113071", "DCM", "Z-score")
_NO_UNITS = Code("1", "UCUM", "no units")
_BY_SEGMENTATION = Code("113076", "DCM", "Segmentation")
_BY_CALCULATION = Code("112187", "DCM", "Unspecified method of calculation")
_SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")


def write_segmentation(
    path: Path,
    mask: NDArray[np.bool_],
    source: SourceStack,
    *,
    threshold: float,
    model_version: str,
) -> Path:
    """Write a mask as a binary DICOM segmentation (SEG) with one segment, "Suspicious (AE-Flow)".

    All slices are written, empty ones too, so that an empty mask says that nothing was found.

    Args:
        path: the file to write, atomically.
        mask: bool (X, Y, Z) with X along the rows (columns counted), Y down the columns and Z along
            the normal, ascending.
        source: the slices in the order of Z, as ``read_stack`` read them.
        threshold: above which pixels are in the mask, in standard deviations above normal pixels.
        model_version: of the algorithm, at most 64 characters.

    Returns:
        The path.

    Raises:
        InputError: if highdicom is missing, the mask does not fit the source, or an option cannot
            be written.
    """
    highdicom = require_highdicom()
    if mask.dtype != np.bool_:
        raise InputError(
            f"mask: expected bool, found {mask.dtype}. Compare the map to a threshold."
        )
    if not np.isfinite(threshold):
        raise InputError(f"threshold: expected a finite number, found {threshold}.")
    pixels = _frames("mask", mask, source).astype(np.uint8)
    with verbatim():
        segment = highdicom.seg.SegmentDescription(
            segment_number=1,
            segment_label=f"Suspicious ({_NAME})",
            segmented_property_category=_ABNORMAL,
            segmented_property_type=_LESION,
            algorithm_type="AUTOMATIC",
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                name=_NAME,
                family=_ARTIFICIAL_INTELLIGENCE,
                version=_version(model_version),
                parameters={"threshold": f"{threshold:g}"},
            ),
            tracking_uid=highdicom.UID(),
            tracking_id=f"{_NAME} suspicious",
        )
        segment.SegmentDescription = (
            f"Pixels more than {threshold:g} standard deviations above normal. For research only."
        )
        output = highdicom.seg.Segmentation(
            pixel_array=pixels,
            segmentation_type="BINARY",
            segment_descriptions=[segment],
            series_number=SEGMENTATION_SERIES_NUMBER,
            series_description=f"{_NAME} anomaly mask (research only)",
            content_label="AEFLOW_MASK",
            content_description="Suspicious regions. For research only.",
            omit_empty_frames=False,
            **_shared_arguments(highdicom, source, model_version),
        )
        _complete(highdicom, output, source, _BY_SEGMENTATION)
        return _save(path, output)


def write_parametric_map(
    path: Path,
    anomaly_map: NDArray[np.float32],
    source: SourceStack,
    *,
    model_version: str,
) -> Path:
    """Write an anomaly map as a DICOM parametric map of 32-bit floats, value for value.

    Args:
        path: the file to write, atomically.
        anomaly_map: float32 (X, Y, Z), the axes as in ``write_segmentation``, in standard
            deviations above normal pixels: a Z-score (DCM 113071) without unit (UCUM 1).
        source: the slices in the order of Z, as ``read_stack`` read them.
        model_version: of the algorithm, at most 64 characters.

    Returns:
        The path.

    Raises:
        InputError: if highdicom is missing, the map does not fit the source or is not finite, or
            an option cannot be written.
    """
    highdicom = require_highdicom()
    pixels = _frames("anomaly_map", anomaly_map, source).astype(np.float32)
    if not np.isfinite(pixels).all():
        raise InputError(
            "anomaly_map: expected finite numbers, found "
            f"{int((~np.isfinite(pixels)).sum())} that are not. Score the volume again."
        )
    with verbatim():
        mapping = highdicom.pm.RealWorldValueMapping(
            lut_label="AEFLOW_SD",
            lut_explanation="Standard deviations above normal pixels",
            unit=_NO_UNITS,
            value_range=(float(pixels.min()), float(pixels.max())),
            slope=1.0,
            intercept=0.0,
            quantity_definition=_Z_SCORE,
        )
        output = highdicom.pm.ParametricMap(
            pixel_array=pixels,
            real_world_value_mappings=[mapping],
            contains_recognizable_visual_features=False,
            content_qualification="RESEARCH",
            series_number=PARAMETRIC_MAP_SERIES_NUMBER,
            series_description=f"{_NAME} anomaly map (research only)",
            content_label="AEFLOW_MAP",
            content_description="Standard deviations above normal. For research only.",
            **_window(highdicom),
            **_shared_arguments(highdicom, source, model_version),
        )
        _complete(highdicom, output, source, _BY_CALCULATION)
        return _save(path, output)


def require_highdicom() -> Any:
    """Imports highdicom, which is needed for DICOM output alone.

    Raises:
        InputError: when it is not installed.
    """
    highdicom, found = optional_import("highdicom")
    if not found:
        raise InputError(
            "highdicom: needed to write DICOM, but it is not installed. Install it with "
            "pip install highdicom, or as the extra aeflow[dicom]; or save results as NIfTI."
        )
    return highdicom


def _frames(argument: str, volume: NDArray[Any], stack: SourceStack) -> NDArray[Any]:
    """Turn a volume (X, Y, Z) into frames (Z, rows, columns)."""
    if volume.shape != stack.volume_shape:
        raise InputError(
            f"{argument}: expected the shape {stack.volume_shape} (columns, rows, slices) of the "
            f"source, found {volume.shape}. Give the volume on the grid that was read."
        )
    return np.ascontiguousarray(volume.transpose(2, 1, 0))


def _version(value: str) -> str:
    if not 1 <= len(value) <= _LONGEST or "\\" in value or not value.isprintable():
        raise InputError(
            f"model_version: expected 1 to {_LONGEST} printable characters without a backslash, "
            f"found {value!r}. Choose another text."
        )
    return value


def _shared_arguments(highdicom: Any, stack: SourceStack, model_version: str) -> dict[str, Any]:
    first = stack.planes[0]
    return {
        "source_images": _bare_planes(stack),
        "series_instance_uid": highdicom.UID(),
        "sop_instance_uid": highdicom.UID(),
        "instance_number": 1,
        "manufacturer": _NAME,
        "manufacturer_model_name": _NAME,
        "software_versions": _version(model_version),
        "device_serial_number": "none",
        "pixel_measures": highdicom.PixelMeasuresSequence(
            pixel_spacing=first.spacing.tolist(),
            slice_thickness=stack.thickness or _PLACEHOLDER,
            spacing_between_slices=stack.gap,
        ),
    }


def _bare_planes(stack: SourceStack) -> list[pydicom.Dataset]:
    """The slices as single-frame images of no one, with nothing but their geometry."""
    first = stack.planes[0]
    planes = []
    for plane in stack.planes:
        bare = pydicom.Dataset()
        for keyword in REQUIRED_IDENTITY:
            setattr(bare, keyword, "")
        for keyword, value in stack.series.items():
            setattr(bare, keyword, value)
        # Kinds that highdicom does not know, or takes for enhanced ones, need this one.
        bare.SOPClassUID = _MR_IMAGE
        # Of its own even for frames of one file; the true references are set in the end.
        bare.SOPInstanceUID = pydicom.uid.generate_uid()
        bare.Modality = stack.modality
        bare.Rows, bare.Columns = plane.shape
        bare.ImagePositionPatient = [_decimal(value) for value in plane.position]
        # One for all, as in the result: among slices they differ in the last digits at most.
        bare.ImageOrientationPatient = [_decimal(value) for value in first.orientation.ravel()]
        bare.PixelSpacing = [_decimal(value) for value in first.spacing]
        bare.SliceThickness = _decimal(stack.thickness or _PLACEHOLDER)
        if stack.gap is not None:
            bare.SpacingBetweenSlices = _decimal(stack.gap)
        planes.append(bare)
    return planes


def _decimal(value: float) -> Any:
    return pydicom.valuerep.DSfloat(float(value), auto_format=True)


def _window(highdicom: Any) -> dict[str, Any]:
    """The window of a map, whose argument depends on the version of highdicom."""
    centre, width = MAP_WINDOW
    arguments = inspect.signature(highdicom.pm.ParametricMap.__init__).parameters
    if "voi_lut_transformations" in arguments:
        window = highdicom.VOILUTTransformation(window_center=centre, window_width=width)
        return {"voi_lut_transformations": [window]}
    return {"window_center": centre, "window_width": width}


def _complete(
    highdicom: Any, output: pydicom.Dataset, stack: SourceStack, derivation: Code
) -> None:
    """Say what highdicom was not told: whose the result is, and what it comes from."""
    output.SpecificCharacterSet = "ISO_IR 192"
    for element in stack.identity:
        output.add(element)
    measures = output.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if stack.thickness is None:
        measures.SliceThickness = None
    if stack.gap is None and "SpacingBetweenSlices" in measures:
        del measures.SpacingBetweenSlices
    _refer_to_series(output, stack)
    _refer_to_slices(highdicom, output, stack, derivation)


def _refer_to_series(output: pydicom.Dataset, stack: SourceStack) -> None:
    instances = {plane.sop_instance_uid: plane for plane in stack.planes}
    output.SourceImageSequence = [
        _reference(plane, [other.frame for other in stack.planes]) for plane in instances.values()
    ]
    series = pydicom.Dataset()
    series.SeriesInstanceUID = stack.series["SeriesInstanceUID"]
    series.ReferencedInstanceSequence = [_reference(plane, []) for plane in instances.values()]
    output.ReferencedSeriesSequence = [series]


def _refer_to_slices(
    highdicom: Any, output: pydicom.Dataset, stack: SourceStack, derivation: Code
) -> None:
    """Name the source of each frame, found by its position, since highdicom orders the frames."""
    heights = np.array([stack.height(plane.position) for plane in stack.planes])
    for groups in output.PerFrameFunctionalGroupsSequence:
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, np.float64)
        plane = stack.planes[int(np.abs(heights - stack.height(position)).argmin())]
        source = _reference(plane, [plane.frame])
        source.PurposeOfReferenceCodeSequence = [_concept(highdicom, _SOURCE_IMAGE)]
        source.SpatialLocationsPreserved = "YES"
        derived = pydicom.Dataset()
        derived.SourceImageSequence = [source]
        derived.DerivationCodeSequence = [_concept(highdicom, derivation)]
        groups.DerivationImageSequence = [derived]


def _reference(plane: SourcePlane, frames: Sequence[int | None]) -> pydicom.Dataset:
    """A reference to an object, and to those of its frames; DICOM counts them from 1."""
    reference = pydicom.Dataset()
    reference.ReferencedSOPClassUID = plane.sop_class_uid
    reference.ReferencedSOPInstanceUID = plane.sop_instance_uid
    numbers = [frame + 1 for frame in frames if frame is not None]
    if numbers:
        reference.ReferencedFrameNumber = numbers
    return reference


def _concept(highdicom: Any, code: Code) -> Any:
    return highdicom.sr.CodedConcept.from_code(code)


def _save(path: Path, output: pydicom.Dataset) -> Path:
    with replacing(path) as temporary:
        output.save_as(temporary)
    return path

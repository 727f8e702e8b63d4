"""Multi-frame DICOM objects: the functional groups of each frame as a header of its own.

Enhanced objects keep position, orientation, pixel size, rescaling and window in functional groups,
once for all frames or for each frame. Frames that differ in more than their position (time points,
echoes, b-values, stacks) are several volumes in one file, and refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from transforms.dicom.header import DicomHeader, header_of, text
from transforms.errors import InputError

FRAME_KEYWORDS = (
    "NumberOfFrames",
    "PixelPresentation",
    "DimensionIndexSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)

# Which elements of a frame stand in which functional group.
_MACROS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "CTAcquisitionDetailsSequence": ("GantryDetectorTilt",),
}
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")

# What sets frames of several volumes apart: functional group, element.
_VOLUMES = (
    ("FrameContentSequence", "StackID"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
)
# What explains several frames at one position, but may differ between slices of one volume.
_CAUSES = (
    ("MRImageFrameTypeSequence", "FrameType"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("MRDiffusionSequence", "DiffusionDirectionality"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
)
_SPATIAL_INDICES = (
    "StackID",
    "InStackPositionNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)
_SPLIT = "Convert it to one NIfTI file per volume, e.g. with dcm2niix, or export one volume."


def frame_headers(path: Path, dataset: pydicom.Dataset) -> tuple[DicomHeader, ...]:
    """The headers of the frames of a multi-frame or enhanced object, in stored order.

    Args:
        path: the file.
        dataset: its header.

    Raises:
        InputError: if the object has no functional groups for each frame, shows colours, or holds
            several volumes.
    """
    count = int(dataset.get("NumberOfFrames") or 1)
    shared, groups = _functional_groups(dataset)
    if len(groups) != count:
        raise InputError(
            f"{path}: expected functional groups that tell where each of {count} frame(s) lies, "
            f"found {len(groups) or 'none'} (modality {text(dataset, 'Modality') or 'unknown'}). "
            "Films and older multi-frame objects are not read; convert a volume to NIfTI, e.g. "
            "with dcm2niix."
        )
    if text(dataset, "PixelPresentation") in ("COLOR", "MIXED", "COLOR_RANGE", "COLOR_REF"):
        raise InputError(
            f"{path}: expected grey frames, found colour (PixelPresentation "
            f"{text(dataset, 'PixelPresentation')}), as in maps that a workstation computed. Leave "
            "this file out."
        )
    headers = tuple(
        header_of(path, flat, frame, count) for frame, flat in enumerate(single_frames(dataset))
    )
    _require_one_volume(path, headers, _differences(dataset, shared, groups))
    return headers


def single_frames(dataset: pydicom.Dataset) -> list[pydicom.Dataset]:
    """The headers of the frames as single-frame objects would have them, in stored order."""
    shared, groups = _functional_groups(dataset)
    return [_flat(dataset, shared, own) for own in groups]


def _functional_groups(dataset: pydicom.Dataset) -> tuple[pydicom.Dataset, list[pydicom.Dataset]]:
    """Those of all frames, and those of each."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    return shared, list(dataset.get("PerFrameFunctionalGroupsSequence") or [])


def _flat(
    dataset: pydicom.Dataset, shared: pydicom.Dataset, own: pydicom.Dataset
) -> pydicom.Dataset:
    flat = pydicom.Dataset({tag: dataset.get_item(tag) for tag in dataset.keys()})
    for keyword in _PLACE:
        if keyword in flat:  # what stands outside the functional groups holds for no frame
            del flat[keyword]
    for macro, keywords in _MACROS.items():
        for keyword in keywords:
            value = _value(shared, own, macro, keyword)
            if value is not None:
                setattr(flat, keyword, value)
    return flat


def _value(shared: pydicom.Dataset, own: pydicom.Dataset, macro: str, keyword: str) -> Any:
    items = own.get(macro) or shared.get(macro)
    return items[0].get(keyword) if items else None


def _differences(
    dataset: pydicom.Dataset, shared: pydicom.Dataset, groups: Sequence[pydicom.Dataset]
) -> dict[str, list[str]]:
    """The values, one per frame, of all that tells volumes apart and is not the same throughout."""
    found: dict[str, list[str]] = {}
    for macro, keyword in (*_VOLUMES, *_CAUSES):
        values = [_value(shared, own, macro, keyword) for own in groups]
        if any(value is not None for value in values):
            found[keyword] = [str(value) for value in values]
    indices = [
        _value(shared, own, "FrameContentSequence", "DimensionIndexValues") for own in groups
    ]
    for number, dimension in enumerate(dataset.get("DimensionIndexSequence") or []):
        tag = dimension.get("DimensionIndexPointer")
        keyword = "" if tag is None else pydicom.datadict.keyword_for_tag(tag)
        if keyword in _SPATIAL_INDICES or keyword in found:
            continue
        values = [
            np.atleast_1d(np.asarray(index if index is not None else [])) for index in indices
        ]
        if all(number < len(value) for value in values):
            found[keyword or f"dimension index {number + 1}"] = [str(v[number]) for v in values]
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def _require_one_volume(
    path: Path, headers: Sequence[DicomHeader], differences: Mapping[str, Sequence[str]]
) -> None:
    apart = [keyword for _, keyword in _VOLUMES if keyword in differences]
    positions = [header.position for header in headers if header.position is not None]
    places = {tuple(np.round(position, 2)) for position in positions}
    if len(places) < len(positions):
        apart = list(differences) or ["nothing that the header tells"]
    if not apart:
        return
    causes = "; ".join(_example(name, differences.get(name, ())) for name in apart)
    raise InputError(
        f"{path}: expected the frames of one volume, found {len(headers)} frames at {len(places)} "
        f"position(s) that differ in {causes}: several stacks, time points, echoes, directions or "
        f"kinds of image. {_SPLIT}"
    )


def _example(name: str, values: Sequence[str]) -> str:
    if not values:
        return name
    other = next(index for index, value in enumerate(values) if value != values[0])
    return f"{name} ({values[0]} in frame 1, {values[other]} in frame {other + 1})"

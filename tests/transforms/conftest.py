"""DICOM files as the tests of this room write them: small, with a patient in every header."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.1"
PRIVATE = {"PatientName": "Doe^Jane", "PatientID": "ID4711", "PatientBirthDate": "19700102"}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

SaveDicom = Callable[..., Path]
SaveVolume = Callable[..., Path]


def _save_dicom(path: Path, pixels: np.ndarray[Any, Any], **elements: Any) -> Path:
    """Write one uncompressed image; elements of None are left out."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = elements.get("SOPClassUID", MR_IMAGE)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    bits = 8 * pixels.dtype.itemsize
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    rows, columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    defaults = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": "1.2.3",
        "Modality": "MR",
        **PRIVATE,
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
    }
    if colour:
        defaults["PlanarConfiguration"] = 0
    for keyword, value in {**defaults, **elements}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)
    return path


def _place(affine: np.ndarray[Any, Any], index: int) -> dict[str, list[float]]:
    """The geometry elements of slice ``index`` of a volume (X, Y, Z) with a RAS affine."""
    lps = LPS @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / sizes
    position = lps[:3, 3] + index * lps[:3, 2]
    return {
        "ImagePositionPatient": [round(float(x), 8) for x in position],
        "ImageOrientationPatient": [round(float(x), 8) for x in directions[:, :2].T.ravel()],
        "PixelSpacing": [round(float(x), 8) for x in (sizes[1], sizes[0])],
    }


@pytest.fixture(scope="session")
def save_dicom() -> SaveDicom:
    """Writes pixels, (H, W) or (H, W, 3), as a file: ``save_dicom(path, pixels, **elements)``."""
    return _save_dicom


@pytest.fixture(scope="session")
def save_volume() -> SaveVolume:
    """Writes a volume (X, Y, Z) as a series: ``save_volume(folder, stored, affine, **elements)``.

    The affine is in RAS and right-handed. Names are shuffled against the order of the slices.
    """

    def save(
        folder: Path,
        stored: np.ndarray[Any, Any],
        affine: np.ndarray[Any, Any],
        skip: Sequence[int] = (),
        **elements: Any,
    ) -> Path:
        count = stored.shape[2]
        for index, name in enumerate(np.random.default_rng(3).permutation(count)):
            if index not in skip:
                slice_elements = {**_place(affine, index), "InstanceNumber": int(name) + 1}
                pixels = np.ascontiguousarray(stored[:, :, index].T)
                _save_dicom(folder / f"IM{name:04d}", pixels, **{**slice_elements, **elements})
        return folder

    return save


def _dataset(**elements: Any) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture(scope="session")
def save_frames() -> SaveVolume:
    """Writes volumes (X, Y, Z) as one enhanced MR object of all their slices.

    ``save_frames(path, stored, affine, order, changes, shared, **elements)``: ``order`` gives the
    slice of each frame; ``changes`` maps a frame to elements of its functional groups, by macro.
    """

    def save(
        path: Path,
        stored: np.ndarray[Any, Any],
        affine: np.ndarray[Any, Any],
        order: Sequence[int] | None = None,
        changes: dict[int, dict[str, dict[str, Any]]] | None = None,
        shared: dict[str, dict[str, Any]] | None = None,
        **elements: Any,
    ) -> Path:
        order = range(stored.shape[2]) if order is None else order
        frames = []
        for frame, index in enumerate(order):
            place = _place(affine, index)
            macros: dict[str, dict[str, Any]] = {
                "FrameContentSequence": {"StackID": "1", "InStackPositionNumber": index + 1},
                "PlanePositionSequence": {"ImagePositionPatient": place["ImagePositionPatient"]},
            }
            for macro, values in ((changes or {}).get(frame) or {}).items():
                macros[macro] = {**macros.get(macro, {}), **values}
            frames.append(_dataset(**{name: [_dataset(**v)] for name, v in macros.items()}))
        place = _place(affine, 0)
        common = {
            "PlaneOrientationSequence": {
                "ImageOrientationPatient": place["ImageOrientationPatient"]
            },
            "PixelMeasuresSequence": {"PixelSpacing": place["PixelSpacing"]},
            **(shared or {}),
        }
        pixels = np.stack([stored[:, :, index].T for index in order])
        return _save_dicom(
            path,
            pixels,
            **{
                "SOPClassUID": ENHANCED_MR_IMAGE,
                "NumberOfFrames": len(frames),
                "SharedFunctionalGroupsSequence": [
                    _dataset(**{name: [_dataset(**v)] for name, v in common.items()})
                ],
                "PerFrameFunctionalGroupsSequence": frames,
                **elements,
            },
        )

    return save

"""Small DICOM series, and what the results that refer to them hold."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from pipelines.outputs.dicom_objects import write_parametric_map, write_segmentation
from pipelines.outputs.dicom_source import read_stack

NAME = "Doe-without-caret"
ROWS, COLUMNS, SLICES = 5, 7, 4  # 35 pixels, so that frames do not end at whole bytes
SPACING = (0.5, 0.75)
GAP = 2.5
OBLIQUE = [0.8, 0.6, 0.0, -0.36, 0.48, -0.8]


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
    source = read_stack(files, frames)
    one = write_segmentation(folder / "mask.dcm", mask, source, threshold=3.25, model_version="1.2")
    other = write_parametric_map(folder / "map.dcm", anomaly_map, source, model_version="1.2")
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


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """Writes series and results, and reads results back; see the functions of these names."""
    return SimpleNamespace(
        NAME=NAME,
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        SLICES=SLICES,
        SPACING=SPACING,
        GAP=GAP,
        OBLIQUE=OBLIQUE,
        series=series,
        enhanced=enhanced,
        affine=affine,
        volumes=volumes,
        write_both=write_both,
        resampled=resampled,
        sources=sources,
    )

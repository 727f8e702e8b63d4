"""DICOM headers to images: which frames make a picture or a volume, and their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transforms.dicom.files import DicomObject
from transforms.dicom.header import Array, DicomHeader
from transforms.dicom.pixels import decode, meaning, shown_window
from transforms.dicom.stack import stack
from transforms.errors import InputError
from transforms.limits import require_memory


@dataclass(frozen=True)
class DicomImage:
    """A picture or a volume whose pixels have not been decoded yet.

    Attributes:
        headers: of the picture, or of the slices of the volume in the order of Z.
        affine: float64 4 x 4, voxel indices to mm in RAS+; None for a picture.
    """

    headers: tuple[DicomHeader, ...]
    affine: Array | None

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) of a picture, or (X, Y, Z) of a volume."""
        height, width = self.headers[0].shape
        return (height, width) if self.affine is None else (width, height, len(self.headers))

    def values(self) -> Array:
        """Decode, invert and rescale.

        Returns:
            (H, W) or (H, W, 3), float64, for a picture; (X, Y, Z), float32, for a volume.

        Raises:
            InputError: if the image is too large, or the pixels of a file cannot be decoded.
        """
        channels = 1 if self.headers[0].grey else 3
        require_memory(self.headers[0].path, 4 * channels * math.prod(self.shape))
        if self.affine is None:
            return meaning(self.headers[0], decode(self.headers[0])[0])
        slices = np.empty(self.shape[::-1], np.float32)
        stored = decode(self.headers[0])
        for index, header in enumerate(self.headers):
            if header.path != self.headers[max(0, index - 1)].path:
                stored = decode(header)
            with np.errstate(over="ignore"):  # what overflows is reported as infinite by readers
                slices[index] = meaning(header, stored[header.frame])
        return slices.T

    def meta(self) -> dict[str, Any]:
        """What else the headers tell, as plain values that name no patient.

        ``modality``, ``series_uid``, ``frame_of_reference``, ``dicom_files`` (the path of each
        slice in the order of Z; one path for a picture or a multi-frame file),
        ``dicom_frames`` (for multi-frame files the frame of each slice, from 0), ``voi_windows``
        (the (centre, width) of each slice) with ``voi_function`` where every header gives them,
        and, for pictures, ``bit_depth``: 8 for values that surely lie in 0..255 (at most 8 bits,
        unsigned, not rescaled), otherwise 16, which leads to scaling by percentiles.
        """
        first = self.headers[0]
        paths = [str(header.path) for header in self.headers]
        meta: dict[str, Any] = {
            "modality": first.modality,
            "series_uid": first.series_uid,
            "dicom_files": tuple(dict.fromkeys(paths)),
        }
        if first.frame_of_reference:
            meta["frame_of_reference"] = first.frame_of_reference
        if first.frames > 1:
            meta["dicom_frames"] = tuple(header.frame for header in self.headers)
        windows = [shown_window(header) for header in self.headers]
        functions = {header.window_function for header in self.headers}
        if None not in windows and len(functions) == 1:
            meta |= {"voi_windows": tuple(windows), "voi_function": functions.pop()}
        if self.affine is None:
            rescaled = (first.slope, first.intercept) != (1.0, 0.0)
            meta["bit_depth"] = 16 if first.bits > 8 or first.signed or rescaled else 8
        return meta


def image_of_file(item: DicomObject) -> DicomImage:
    """One file: a picture if it holds one frame, else a volume.

    A single frame is always a picture, even if it is a slice of a scan.

    Raises:
        InputError: if the file cannot be read as an image, or its frames form no volume.
    """
    headers = item.checked
    return DicomImage(headers, None) if len(headers) == 1 else volume_of(item.path, [item])


def volume_of(place: Path, objects: Sequence[DicomObject]) -> DicomImage:
    """The files of one series as a volume.

    Args:
        place: the folder or file that they came from, for messages.
        objects: single-frame files, or one multi-frame file.

    Raises:
        InputError: if a file cannot be read, shows colours or holds frames beside other files, or
            if the slices do not form one evenly spaced, upright stack.
    """
    headers = [header for item in objects for header in item.checked]
    for header in headers:
        if not header.grey:
            raise InputError(
                f"{header.path}: expected grey slices, found colour, as in maps that a workstation "
                "computed. Leave this series out."
            )
        if header.frames > 1 and len(objects) > 1:
            raise InputError(
                f"{place}: expected single-frame files or one multi-frame file, found "
                f"{len(objects)} files of one series, of which {header.path.name} holds "
                f"{header.frames} frames. Name one of the files."
            )
    ordered, affine = stack(place, headers)
    return DicomImage(tuple(ordered), affine)

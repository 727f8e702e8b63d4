"""Anomaly maps as files on the grid of their input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal.igzip import IGzipFile
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from PIL import Image

from pipelines.common import replacing
from pipelines.data import SignalSample
from pipelines.outputs.signals import write_trace
from pipelines.scoring import ScoredCase

PNG_PER_SD = 10_000
"""Grey levels of a 16-bit PNG map per standard deviation; 65,535, its end, stands for 6.55."""


def write_maps(folder: Path, scored: ScoredCase, pixel_threshold: float) -> list[Path]:
    """Writes the map of a case, and where it exceeds the pixel threshold.

    Volumes become ``<case>_anomaly.nii.gz`` (float32, standard deviations) and
    ``<case>_mask.nii.gz`` (uint8, 0 and 1) with the affine, the units and the orientation of the
    input. Pictures become ``<case>_anomaly.png`` (16 bit, 10,000 levels per standard deviation,
    negative values 0) and ``<case>_mask.png`` (0 and 255). An ensemble adds ``<case>_std``, how
    far its members disagree, as the anomaly map is written.

    A signal becomes one table, see `write_trace`.

    Args:
        folder: where to write.
        scored: the case.
        pixel_threshold: the map value above which a pixel is suspicious.

    Returns:
        The files.
    """
    if isinstance(scored.sample, SignalSample):
        return write_trace(folder, scored, pixel_threshold)
    anomaly_map = _values(scored.grid_map)
    written = [
        _write_map(folder, "anomaly", scored, anomaly_map),
        _write_mask(folder, scored, anomaly_map > pixel_threshold),
    ]
    if scored.std_map is not None:
        std_map = _values(scored.on_grid(scored.std_map))
        written.append(_write_map(folder, "std", scored, std_map))
    return written


def _values(grid_map: MetaTensor) -> NDArray[np.float32]:
    return np.asarray(grid_map.as_tensor().numpy(), np.float32)


def _write_map(folder: Path, kind: str, scored: ScoredCase, values: NDArray[np.float32]) -> Path:
    stem = f"{scored.sample.case.name}_{kind}"
    if scored.sample.geometry.slice_axis is None:
        levels = np.clip(np.rint(values * PNG_PER_SD), 0, 65_535).astype(np.uint16)
        return _write_png(folder / f"{stem}.png", levels)
    return _write_grid(folder / f"{stem}.nii.gz", scored, values)


def _write_mask(folder: Path, scored: ScoredCase, mask: NDArray[np.bool_]) -> Path:
    name = scored.sample.case.name
    if scored.sample.geometry.slice_axis is None:
        return _write_png(folder / f"{name}_mask.png", mask.astype(np.uint8) * 255)
    return _write_grid(folder / f"{name}_mask.nii.gz", scored, mask.astype(np.uint8))


def _write_grid(path: Path, scored: ScoredCase, values: NDArray[Any]) -> Path:
    sample = scored.sample
    return write_volume(path, values, np.array(sample.geometry.affine), sample.header)


def write_volume(
    path: Path, values: NDArray[Any], affine: NDArray[np.float64], header: Mapping[str, Any]
) -> Path:
    """Writes a NIfTI volume with the grid of its input.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        values: ``(X, Y, Z)``.
        affine: 4 x 4, mm, RAS+.
        header: the input's ``xyzt_units``, ``qform_code`` and ``sform_code``, where known;
            millimetres and scanner coordinates otherwise, as for DICOM.
    """
    image = nib.Nifti1Image(values, affine)
    image.header.set_slope_inter(1.0, 0.0)
    qform, sform = int(header.get("qform_code", 1)), int(header.get("sform_code", 1))
    image.set_qform(affine, code=qform)
    # Without any code a reader would make the affine up from the voxel sizes alone.
    image.set_sform(affine, code=sform or (0 if qform and _is_rigid(image, affine) else 1))
    image.header["xyzt_units"] = int(header.get("xyzt_units", 2)) & 7
    with replacing(path) as temporary:
        if path.suffix == ".gz":  # far faster than nibabel's zlib, and no larger
            with temporary.open("wb") as file, IGzipFile("", "wb", 1, file, mtime=0) as stream:
                image.to_stream(stream)
        else:
            nib.save(image, temporary)
    return path


def _is_rigid(image: nib.Nifti1Image, affine: NDArray[np.float64]) -> bool:
    """Whether the quaternion form, which knows no shear, holds the affine."""
    return bool(np.allclose(image.get_qform(), affine, atol=1e-4))


def _write_png(path: Path, values: NDArray[Any]) -> Path:
    with replacing(path) as temporary:
        Image.fromarray(values).save(temporary)
    return path

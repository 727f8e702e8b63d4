"""Label maps and anomaly maps as the files that clients ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lib.guard import Refusal, choice
from lib.images import NIFTI
from pipelines.outputs import write_volume
from pipelines.scoring import LABELS, Findings
from transforms.readers import PICTURE_SUFFIXES

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".png")
DTYPES = ("uint8", "int16", "uint16", "int32", "float32", "float64")
KINDS = ("labels", "map")
COLOURS = {"suspicious": (1.0, 0.75, 0.0), "very suspicious": (0.85, 0.1, 0.1)}
"""Red, green and blue in [0, 1] that Slicer gives the bands."""

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Wanted:
    """What a client wants to get.

    Attributes:
        kind: ``labels`` or ``map``.
        suffix: of the file.
        dtype: of its values.
        compress: whether NRRD is compressed.
    """

    kind: str
    suffix: str
    dtype: np.dtype[Any]
    compress: bool


def wanted(params: Mapping[str, Any], source: Path) -> Wanted:
    """Reads ``result``, ``result_extension``, ``result_dtype`` and ``result_compress``.

    Args:
        params: the request's parameters.
        source: the image, whose format is the default.

    Raises:
        Refusal: 400 for what cannot be written.
    """
    kind = choice("result", params.get("result") or "labels", KINDS)
    suffix = choice(
        "result_extension", params.get("result_extension") or _default(source, kind), SUFFIXES
    )
    dtype = choice(
        "result_dtype",
        params.get("result_dtype") or ("uint8" if kind == "labels" else "float32"),
        DTYPES,
    )
    if suffix == ".seg.nrrd" and kind == "map":
        raise Refusal(400, "result_extension: .seg.nrrd holds labels, not a map.")
    return Wanted(kind, suffix, np.dtype(dtype), params.get("result_compress") is True)


def _default(source: Path, kind: str) -> str:
    name = source.name.lower()
    if name.endswith(PICTURE_SUFFIXES):
        return ".png" if kind == "labels" else ".nrrd"
    return ".nrrd" if name.endswith(".nrrd") else ".nii" if name.endswith(NIFTI[1]) else ".nii.gz"


def write_result(path_stem: Path, found: Findings, want: Wanted) -> tuple[Path, dict[str, Any]]:
    """Writes the label map or the anomaly map.

    Args:
        path_stem: the file's path without a suffix.
        found: the findings.
        want: what to write.

    Returns:
        The file and, for a map whose values had to be scaled, ``slope`` and ``intercept`` so that
        standard deviations are value * slope + intercept.
    """
    scaling: dict[str, Any] = {}
    if want.kind == "labels":
        values = found.label_map.astype(want.dtype)
    elif want.dtype.kind == "f":
        values = found.anomaly_map.astype(want.dtype)
    else:
        values, scaling = scaled(found.anomaly_map, want.dtype)
    sample = found.scored.sample
    affine = np.array(sample.geometry.affine, np.float64)
    path = path_stem.parent / f"{path_stem.name}{want.suffix}"
    flat = sample.geometry.slice_axis is None
    if want.suffix == ".png":
        _write_png(path, values)
    elif want.suffix.endswith(".nrrd"):
        _write_nrrd(path, values.T if flat else values, None if flat else affine, want)
    elif flat:
        write_volume(path, values.T[:, :, None], np.eye(4), {})
    else:
        write_volume(path, values, affine, sample.header)
    return path, scaling


def scaled(
    values: NDArray[np.float32], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], dict[str, float]]:
    """A map in integers that uses their whole range from 0; a constant map becomes 1.

    Returns:
        The integers, and ``slope`` and ``intercept`` that lead back.
    """
    top = float(np.iinfo(dtype).max)
    low, high = float(values.min()), float(values.max())
    slope = (high - low) / top
    if slope == 0.0:
        return np.ones(values.shape, dtype), {"slope": 1.0, "intercept": low - 1.0}
    levels = np.rint((values.astype(np.float64) - low) / slope)
    return np.clip(levels, 0, top).astype(dtype), {"slope": slope, "intercept": low}


def _write_png(path: Path, values: NDArray[Any]) -> None:
    if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
        raise Refusal(
            400, "result_extension: .png is for pictures and result_dtype uint8 or uint16."
        )
    Image.fromarray(values).save(path)


def _write_nrrd(
    path: Path, values: NDArray[Any], affine: NDArray[np.float64] | None, want: Wanted
) -> None:
    header: dict[str, Any] = {"encoding": "gzip" if want.compress else "raw"}
    if affine is not None:
        grid = _LPS @ affine
        header |= {
            "space": "left-posterior-superior",
            "space directions": grid[:3, :3].T,
            "space origin": grid[:3, 3],
            "kinds": ["domain"] * 3,
        }
    if want.suffix == ".seg.nrrd":
        header |= _segments()
    nrrd.write(str(path), values, header, index_order="F")


def _segments() -> dict[str, str]:
    header: dict[str, str] = {}
    for index, (name, value) in enumerate(LABELS.items()):
        header |= {
            f"Segment{index}_ID": name.replace(" ", "_"),
            f"Segment{index}_Name": name,
            f"Segment{index}_LabelValue": str(value),
            f"Segment{index}_Layer": "0",
            f"Segment{index}_Color": " ".join(f"{part:g}" for part in COLOURS[name]),
        }
    return header

"""The default data: brain phantoms in BraTS layout, written once into a cache folder.

They are for trying the program. Figures measured on them say nothing about real scans.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from pipelines.common import track
from pipelines.data.phantom.anatomy import draw_anatomy
from pipelines.data.phantom.fields import Grid
from pipelines.data.phantom.signal import draw_images
from transforms.errors import InputError

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "AEFLOW_CACHE_DIR"
VERSION = "v1"
COVER = "README.txt"
EXTENT = (240.0, 240.0, 150.0)
"""Field of view in mm, about that of BraTS."""

DRAWN = (0.703, 0.829, 1.0)
"""Share of each axis that the brain can reach; the rest is background and is not drawn."""

COVER_TEXT = """Brain phantoms in BraTS layout, made by a computer program (AE-Flow).

They are for trying the program. No patient was scanned; figures measured on these
files say nothing about real scans. This folder can be deleted at any time: it is
made again when needed.
"""


def ensure_phantom_dataset(
    root: Path | None = None,
    patients: int = 24,
    size: tuple[int, int, int] = (128, 128, 64),
    seed: int = 2021,
) -> Path:
    """Makes the phantom set if it is not there yet.

    Each patient ``Phantom_00000`` has ``_flair``, ``_t1``, ``_t1ce``, ``_t2`` (int16, arbitrary
    units, background 0) and ``_seg`` (uint8: 1 necrosis, 2 edema, 4 enhancing), in LPS
    orientation. The voxels are a function of seed, size and the patient's number.

    Args:
        root: folder to write below; None takes `cache_folder`.
        patients: how many.
        size: voxels along left-right, front-back and foot-head.
        seed: of everything random.

    Returns:
        The folder of the set.

    Raises:
        InputError: when the folder cannot be written.
    """
    parameters = f"{patients}-{size}-{seed}".encode()
    name = f"phantom-{VERSION}-{hashlib.sha256(parameters).hexdigest()[:8]}"
    folder = (root or cache_folder()) / name
    if (folder / COVER).is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    except OSError as error:
        raise InputError(
            f"The phantom set cannot be written to {folder} ({error.strerror}). Set the "
            f"environment variable {CACHE_VARIABLE} to a folder that can be written, or give data "
            f"of your own with --dataset_dir."
        ) from error
    try:
        _write_set(unfinished, patients, size, seed)
        unfinished.chmod(0o755)
        _publish(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def cache_folder() -> Path:
    """The user's cache folder for this program: ``$AEFLOW_CACHE_DIR`` or the platform's."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "aeflow"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "aeflow"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aeflow"


def _write_set(folder: Path, patients: int, size: tuple[int, int, int], seed: int) -> None:
    logger.info("No dataset_dir given: making %d brain phantoms, once.", patients)
    with ThreadPoolExecutor(2) as pool:
        written = pool.map(
            lambda number: _write_patient(folder, number, size, seed), range(patients)
        )
        for _ in track(written, "Making phantoms", patients, "patients"):
            pass
    (folder / COVER).write_text(COVER_TEXT)


def _publish(unfinished: Path, folder: Path) -> None:
    """Gives the finished set its name; another process may have been faster."""
    try:
        unfinished.rename(folder)
    except OSError:
        if not (folder / COVER).is_file():
            raise


def _write_patient(folder: Path, number: int, size: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng([seed, number])
    spacing = tuple(extent / count for extent, count in zip(EXTENT, size, strict=True))
    drawn = tuple(
        min(count, 2 * round(share * count / 2)) for share, count in zip(DRAWN, size, strict=True)
    )
    grid = Grid(drawn, spacing)  # type: ignore[arg-type]
    anatomy = draw_anatomy(grid, rng)
    volumes: dict[str, npt.NDArray[np.int16] | npt.NDArray[np.uint8]] = {
        **draw_images(anatomy, grid, rng),
        "seg": anatomy.labels,
    }
    case = f"Phantom_{number:05d}"
    (folder / case).mkdir()
    margins = [((c - d) // 2, c - d - (c - d) // 2) for c, d in zip(size, drawn, strict=True)]
    for suffix, volume in volumes.items():
        _write_volume(folder / case / f"{case}_{suffix}.nii.gz", np.pad(volume, margins), spacing)


def _write_volume(path: Path, volume: npt.NDArray[np.integer], spacing: tuple[float, ...]) -> None:
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:2, 3] = [spacing[axis] * (volume.shape[axis] - 1) for axis in (0, 1)]
    image: Any = nib.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    # A fast compression level, and no time stamp: equal volumes give equal files.
    compressed = io.BytesIO()
    with gzip.GzipFile(fileobj=compressed, mode="wb", compresslevel=3, mtime=0) as stream:
        stream.write(image.to_bytes())
    path.write_bytes(compressed.getvalue())

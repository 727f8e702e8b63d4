"""NIfTI volumes by nibabel, with the affine that the header gives by nibabel's own rules.

That is the sform if its code is not 0, else the qform if its code is not 0, else the voxel sizes.
"""

from __future__ import annotations

import math
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from nibabel.volumeutils import apply_read_scaling

from transforms.compressed import read_values
from transforms.errors import InputError
from transforms.limits import require_memory

NIFTI_SUFFIXES = (".nii", ".nii.gz")

FORM_TOLERANCE = 1e-3
"""Largest distance between where sform and qform place a corner, as a share of the diagonal."""

_LONGEST_HEADER = 540

KEPT_FIELDS = ("xyzt_units", "qform_code", "sform_code")
"""What a writer needs to give a map the units and the coordinate codes of its input."""

Array = np.ndarray[Any, Any]


def read_nifti(path: Path) -> tuple[Array, dict[str, Any]]:
    """Read one file of format 1 or 2.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.

    Returns:
        The scaled values in stored order, and ``affine``, float64 4 x 4 in mm, with the units and
        codes of the header.

    Raises:
        InputError: if a form that is set, or what stands in for both, is no invertible affine.
    """
    with ImageOpener(str(path)) as file:
        stored = _header(path, file.read(_LONGEST_HEADER))
    header = stored.copy()
    header.check_fix()
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    offset = header.get_data_offset()
    if len(shape) < 3 or 0 in shape:
        raise InputError(f"{path}: expected a volume (X, Y, Z), found {shape}.")
    voxels = math.prod(shape)
    require_memory(path, offset + voxels * max(dtype.itemsize, 4))
    compressed = path.suffix.lower() == ".gz"
    content = read_values(path, 0, offset + voxels * dtype.itemsize, compressed)
    stored_values: Array = np.ndarray(shape, dtype, content, offset, order="F")
    return apply_read_scaling(stored_values, *header.get_slope_inter()), {
        "affine": _affine(path, stored, header),
        **{name: int(header[name]) for name in KEPT_FIELDS},
    }


def _header(path: Path, start: bytes) -> Any:
    """The header as it is stored; nibabel would replace impossible values."""
    kinds: tuple[Any, ...] = (nib.Nifti1Header, nib.Nifti2Header)
    for kind in kinds:
        if kind.may_contain_header(start):
            return kind(start[: kind.template_dtype.itemsize], check=False)
    raise InputError(
        f"{path}: expected a readable NIfTI file, found no NIfTI header. It may be damaged or of "
        "another format than its name says; copy or export it again."
    )


def _affine(path: Path, stored: Any, header: Any) -> Array:
    """The affine of a header, where every form that it sets is sound."""
    forms = {}
    if header["sform_code"]:
        name = f"the sform (sform_code {header['sform_code']})"
        forms[name] = _checked(path, name, header.get_sform())
    if header["qform_code"]:
        name = f"the qform (qform_code {header['qform_code']})"
        _require_sizes(path, name, stored)
        forms[name] = _checked(path, name, _qform(path, name, header))
    if not forms:
        name = "the affine of the voxel sizes"
        _require_sizes(path, name, stored)
        return _checked(path, name, header.get_base_affine())
    if len(forms) == 2:
        _tell_disagreement(path, header.get_data_shape()[:3], forms)
    return next(iter(forms.values()))


def _require_sizes(path: Path, name: str, stored: Any) -> None:
    """Refuse voxel sizes for which nibabel would take 1 or their absolute value."""
    sizes = stored["pixdim"][1:4]
    if not ((sizes > 0) & np.isfinite(sizes)).all():
        raise _broken(path, name, f"made of the voxel sizes (pixdim) {sizes.tolist()}")


def _qform(path: Path, name: str, header: Any) -> Any:
    try:
        return header.get_qform()
    except ValueError as error:
        raise _broken(path, name, f"made of no unit quaternion ({error})") from error


def _checked(path: Path, name: str, form: Any) -> Array:
    affine = np.asarray(form, np.float64)
    if not np.isfinite(affine).all():
        raise _broken(path, name, f"not finite, {affine.tolist()}")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise _broken(path, name, f"singular, {affine.tolist()}")
    return affine


def _broken(path: Path, name: str, fault: str) -> InputError:
    return InputError(
        f"{path}: expected an invertible affine, but {name} is {fault}. Correct the header or "
        "export the file again."
    )


def _tell_disagreement(path: Path, shape: tuple[int, ...], forms: dict[str, Array]) -> None:
    (used, sform), (other, qform) = forms.items()
    corners = np.array([(*corner, 1) for corner in product(*((0, side) for side in shape))])
    apart = float(np.linalg.norm(corners @ (sform - qform).T, axis=1).max())
    diagonal = float(np.linalg.norm(sform[:3, :3] @ np.array(shape)))
    if apart > FORM_TOLERANCE * diagonal:
        warnings.warn(
            f"{path}: {used} and {other} place voxels up to {apart:.3g} mm apart; the sform is "
            "used. If that is wrong, set one code to 0.",
            stacklevel=2,
        )

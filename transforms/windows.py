"""Windows: the range of values that is shown, from a CT preset, two numbers or a DICOM header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from transforms.errors import InputError

CT_WINDOWS: Mapping[str, tuple[float, float]] = {
    "brain": (40.0, 80.0),
    "subdural": (75.0, 215.0),
    "stroke": (40.0, 40.0),
    "bone": (400.0, 1800.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "soft_tissue": (50.0, 400.0),
    "abdomen": (50.0, 400.0),
    "liver": (30.0, 150.0),
}
"""Centre and width of common CT windows, in Hounsfield units."""

CT_PREFIX = "ct:"
WINDOW_PREFIX = "window:"
VOI = "voi"


def window_method(window: str) -> str | None:
    """The intensity method of a window as the user names it.

    Args:
        window: the name of a CT window, with or without ``ct:``; centre and width,
            ``"40,80"`` or ``"window:40,80"``; or ``"voi"`` for the window that DICOM headers give.

    Returns:
        ``"ct:<name>"``, ``"window:<centre>,<width>"`` or ``"voi"``; None for anything else.

    >>> window_method("lung"), window_method("40,80")
    ('ct:lung', 'window:40,80')
    """
    name = str(window).strip().lower()
    if name == VOI:
        return VOI
    if name.removeprefix(CT_PREFIX) in CT_WINDOWS:
        return CT_PREFIX + name.removeprefix(CT_PREFIX)
    try:
        centre, width = (float(part) for part in name.removeprefix(WINDOW_PREFIX).split(","))
    except ValueError:
        return None
    usable = 0 < width < float("inf") and abs(centre) < float("inf")
    return f"{WINDOW_PREFIX}{centre:g},{width:g}" if usable else None


def apply_window(values: torch.Tensor, method: str, meta: Mapping[str, Any]) -> torch.Tensor:
    """Map values within a window linearly to [0, 1], clipped.

    Args:
        values: float32 (C, H, W) or (C, X, Y, Z).
        method: what ``window_method`` returned.
        meta: of the image, as ``read_image`` returned it.

    Returns:
        float32 of the same shape in [0, 1]; whatever lies below the window is exactly 0.

    Raises:
        InputError: if a CT window meets values that are no Hounsfield units, or if ``voi`` is
            asked for where the header gives no window.
    """
    if method == VOI:
        return _apply_voi(values, meta)
    if method.startswith(CT_PREFIX):
        _require_hounsfield(values, meta, method)
        centre, width = CT_WINDOWS[method.removeprefix(CT_PREFIX)]
    else:
        centre, width = (float(part) for part in method.removeprefix(WINDOW_PREFIX).split(","))
    return ((values - centre) / width + 0.5).clamp(0.0, 1.0)


def _require_hounsfield(values: torch.Tensor, meta: Mapping[str, Any], method: str) -> None:
    modality, lowest = meta.get("modality"), float(values.min())
    if modality == "CT" or (not modality and "bit_depth" not in meta and lowest < 0):
        return
    found = (
        f"the modality {modality}" if modality else f"values from {lowest:g} to {values.max():g}"
    )
    raise InputError(
        f"{meta.get('filename_or_obj', 'image')}: expected Hounsfield units for the window "
        f"{method!r}, in which air is about -1000, found {found}. Rescale the values, or give the "
        f"window in the unit of the file as {WINDOW_PREFIX}centre,width."
    )


def _apply_voi(values: torch.Tensor, meta: Mapping[str, Any]) -> torch.Tensor:
    windows, function = meta.get("voi_windows"), meta.get("voi_function")
    if not windows:
        raise InputError(
            f"{meta.get('filename_or_obj', 'image')}: expected a DICOM image whose header gives a "
            f"window, found none. Choose a window, e.g. {WINDOW_PREFIX}40,80, or another method."
        )
    # One window for a picture, one per slice, along the last axis, for a volume.
    centre, width = torch.tensor(windows, dtype=values.dtype, device=values.device).unbind(1)
    if function == "SIGMOID":
        return torch.sigmoid(4 * (values - centre) / width)
    if function == "LINEAR_EXACT":
        return ((values - centre) / width + 0.5).clamp(0.0, 1.0)
    # DICOM PS3.3 C.11.2.1.2.1, where a width of 1 is a threshold.
    return ((values - (centre - 0.5)) / (width - 1).clamp_min(1e-6) + 0.5).clamp(0.0, 1.0)

"""Signal of the brain phantom: contrasts of the four BraTS modalities, and what scanners add."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.data.phantom.anatomy import Anatomy, Tissue
from pipelines.data.phantom.fields import FieldSource, Grid, Volume

# Relative signal of each `Tissue`, in its order; white matter in T1 is 1.
_CONTRASTS = {
    "flair": (0.26, 0.74, 0.62, 0.70, 0.98, 0.85, 0.45, 0.62, 1.12, 1.00),
    "t1": (0.42, 0.78, 1.00, 0.86, 0.92, 0.65, 0.62, 0.50, 0.76, 0.80),
    "t1ce": (0.42, 0.82, 1.00, 0.88, 0.92, 1.35, 1.75, 0.50, 0.76, 1.65),
    "t2": (1.15, 0.56, 0.40, 0.46, 0.60, 0.85, 0.25, 0.95, 0.82, 0.62),
}
_LESION = (Tissue.NECROSIS, Tissue.EDEMA, Tissue.ENHANCING)


def draw_images(
    anatomy: Anatomy, grid: Grid, rng: np.random.Generator
) -> dict[str, npt.NDArray[np.int16]]:
    """Images of one subject in arbitrary units, as four different acquisitions.

    Args:
        anatomy: tissues on ``grid``.
        grid: of shape ``(X, Y, Z)``.
        rng: source of all randomness.

    Returns:
        For flair, t1, t1ce and t2 int16 ``(X, Y, Z)``: 0 outside the brain, at least 1 inside.
    """
    fields = FieldSource(grid, rng)
    # The lesion differs from white matter by this part of the full contrast.
    conspicuity = float(rng.uniform(0.35, 1.0))
    texture = 0.6 * fields.smooth(2.5) + 0.8 * fields.smooth(9.0)
    images = {}
    for modality in _CONTRASTS:
        contrast = _drawn_contrast(modality, conspicuity, rng)
        signal = np.tensordot(contrast, anatomy.shares, axes=1)
        signal *= 1 + np.float32(rng.uniform(0.02, 0.045)) * texture
        signal *= np.exp(np.float32(rng.uniform(0.03, 0.10)) * fields.smooth(45.0))
        signal = _rician(signal, float(rng.uniform(0.015, 0.04)), fields)
        scale = np.exp(rng.uniform(np.log(200), np.log(2000)))
        scaled = np.clip(np.rint(signal * np.float32(scale)), 1, np.iinfo(np.int16).max)
        images[modality] = np.where(anatomy.brain, scaled, 0).astype(np.int16)
    return images


def _drawn_contrast(modality: str, conspicuity: float, rng: np.random.Generator) -> Volume:
    """Signal of each tissue, float32 ``(10,)``, varied as sequence parameters vary."""
    contrast = np.array(_CONTRASTS[modality])
    contrast *= rng.uniform(0.95, 1.05, size=len(Tissue))
    white = contrast[Tissue.WHITE]
    for tissue in _LESION:
        contrast[tissue] = white + conspicuity * (contrast[tissue] - white)
    return contrast.astype(np.float32)


def _rician(signal: Volume, sigma: float, fields: FieldSource) -> Volume:
    """Magnitude of the signal with complex Gaussian noise of ``sigma`` in each part."""
    scale = np.float32(sigma)
    magnitude: Volume = np.hypot(signal + scale * fields.white(), scale * fields.white())
    return magnitude

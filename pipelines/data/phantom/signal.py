"""Signal of the brain phantom: contrasts of the four BraTS modalities, and what scanners add."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.data.phantom.anatomy import Anatomy, Tissue
from pipelines.data.phantom.fields import FieldSource, Grid, Volume

MODALITIES = ("flair", "t1", "t1ce", "t2")

# Relative signal of each tissue, white matter in T1 being 1.
_CONTRASTS: dict[str, dict[Tissue, float]] = {
    "flair": {
        Tissue.CSF: 0.26,
        Tissue.CORTEX: 0.74,
        Tissue.WHITE: 0.62,
        Tissue.DEEP: 0.70,
        Tissue.PERIVENTRICULAR: 0.98,
        Tissue.CHOROID: 0.85,
        Tissue.VESSEL: 0.45,
        Tissue.NECROSIS: 0.62,
        Tissue.EDEMA: 1.12,
        Tissue.ENHANCING: 1.00,
    },
    "t1": {
        Tissue.CSF: 0.42,
        Tissue.CORTEX: 0.78,
        Tissue.WHITE: 1.00,
        Tissue.DEEP: 0.86,
        Tissue.PERIVENTRICULAR: 0.92,
        Tissue.CHOROID: 0.65,
        Tissue.VESSEL: 0.62,
        Tissue.NECROSIS: 0.50,
        Tissue.EDEMA: 0.76,
        Tissue.ENHANCING: 0.80,
    },
    "t1ce": {
        Tissue.CSF: 0.42,
        Tissue.CORTEX: 0.82,
        Tissue.WHITE: 1.00,
        Tissue.DEEP: 0.88,
        Tissue.PERIVENTRICULAR: 0.92,
        Tissue.CHOROID: 1.35,
        Tissue.VESSEL: 1.75,
        Tissue.NECROSIS: 0.50,
        Tissue.EDEMA: 0.76,
        Tissue.ENHANCING: 1.65,
    },
    "t2": {
        Tissue.CSF: 1.15,
        Tissue.CORTEX: 0.56,
        Tissue.WHITE: 0.40,
        Tissue.DEEP: 0.46,
        Tissue.PERIVENTRICULAR: 0.60,
        Tissue.CHOROID: 0.85,
        Tissue.VESSEL: 0.25,
        Tissue.NECROSIS: 0.95,
        Tissue.EDEMA: 0.82,
        Tissue.ENHANCING: 0.62,
    },
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
        For each of `MODALITIES` int16 ``(X, Y, Z)``: 0 outside the brain, at least 1 inside.
    """
    fields = FieldSource(grid, rng)
    # The lesion differs from white matter by this part of the full contrast.
    conspicuity = float(rng.uniform(0.35, 1.0))
    texture = 0.6 * fields.smooth(2.5) + 0.8 * fields.smooth(9.0)
    images = {}
    for modality in MODALITIES:
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
    table = _CONTRASTS[modality]
    contrast = np.array([table[tissue] for tissue in Tissue])
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

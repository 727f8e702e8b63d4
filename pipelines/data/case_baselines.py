"""The trivial scores of a case's slices, whatever the case is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipelines.data.baselines import baseline_scores, volume_baselines


@dataclass(frozen=True)
class SliceBaselines:
    """Baselines of the chosen slices of a case.

    Attributes:
        scores: baseline name to ``(K,)`` scores.
        intensity_map: ``(K, h, w)`` map of ``intensity``; None for pictures.
    """

    scores: dict[str, NDArray[np.float64]]
    intensity_map: NDArray[np.float32] | None


def slice_baselines(native: Tensor, indices: Tensor, volumetric: bool) -> SliceBaselines:
    """Computes the baselines of a case.

    Args:
        native: all slices with the file's values and resolution, ``(N, C, h, w)``.
        indices: the slices that are wanted, ``(K,)``.
        volumetric: whether the slices belong to a volume with zero background.
    """
    if not volumetric:
        scores = baseline_scores(native[0].numpy())
        return SliceBaselines({name: np.array([value]) for name, value in scores.items()}, None)
    volume = volume_baselines(native.transpose(0, 1).numpy(), axis=0)
    chosen = indices.numpy()
    return SliceBaselines(
        {name: values[chosen] for name, values in volume.scores.items()},
        volume.intensity_map[chosen],
    )

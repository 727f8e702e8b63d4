"""The same slices by several methods, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from pipelines.common import replacing
from pipelines.outputs.examples import Example
from pipelines.outputs.pictures import MAP_RANGE
from pipelines.outputs.traces import save_traces_beside

COLUMNS = 6
"""Pictures in a line: with more of them, maps would be too small to compare."""


@dataclass(frozen=True)
class Shown:
    """A slice with one method's map.

    Attributes:
        case: name of the case.
        index: number of the slice; 0 for a picture.
        image: ``(H, W)`` in [0, 1]; of a signal ``(C, T)`` in the file's units.
        map: the fused map, ``(H, W)`` or ``(T,)``, in standard deviations.
        mask: of the lesion, ``(H, W)`` bool; None when unknown.
    """

    case: str
    index: int
    image: NDArray[np.float32]
    map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None

    @classmethod
    def of(cls, example: Example) -> Shown:
        """What of an example is shown."""
        fused = example.maps["anomaly_map"]
        return cls(example.case, example.index, example.image, fused, example.mask)

    def save(self, folder: Path) -> None:
        """Writes ``<case>.npz``, atomically."""
        arrays: dict[str, Any] = {
            "index": np.array(self.index),
            "image": self.image.astype(np.float16 if self.map.ndim == 2 else np.float32),
            "map": self.map.astype(np.float16),
        }
        if self.mask is not None:
            arrays["mask"] = self.mask
        with replacing(folder / f"{self.case}.npz") as temporary:
            np.savez_compressed(temporary, **arrays)

    @classmethod
    def load(cls, path: Path) -> Shown:
        """Reads what `save` wrote."""
        with np.load(path) as stored:
            image, fused = (stored[name].astype(np.float32) for name in ("image", "map"))
            mask = stored["mask"] if "mask" in stored else None
            return cls(path.stem, int(stored["index"]), image, fused, mask)


def save_beside(path: Path, shown: Mapping[str, Shown]) -> None:
    """Draws one slice, its lesion mask, and the map of each method on one scale.

    Args:
        path: PNG file to write.
        shown: the slice by each method, by its name; of all methods the same slice.
    """
    one = next(iter(shown.values()))
    if one.map.ndim == 1:
        save_traces_beside(path, shown)
        return
    pictures = {"input": one.image}
    if one.mask is not None and one.mask.any():
        pictures["lesion mask"] = one.mask.astype(np.float32)
    maps = {name: each.map for name, each in shown.items()}
    rows = -(-(len(pictures) + len(maps)) // COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(1.9 * COLUMNS, 2.1 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, picture) in zip(axes.flat, (pictures | maps).items(), strict=False):
        low, high = MAP_RANGE if name in maps else (0, 1)
        colours = "magma" if name in maps else "gray"
        axis.imshow(picture, cmap=colours, vmin=low, vmax=high)
        axis.set_title(name, fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
    plt.close(figure)

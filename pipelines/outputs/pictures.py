"""Pictures: panels of single slices and curves of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.common import replacing
from pipelines.outputs.examples import Example

MAP_RANGE = (0.0, 6.0)
"""The fixed colour scale of standardised maps, in standard deviations: a normal image stays dark
whatever else is in the batch."""

PANEL_COLUMNS = 8
"""Pictures in a line of a panel: with more of them their names would be too small to read."""

REGION_COLUMNS = 8
"""Images in a row of the regions' picture."""

RESIDUAL_RANGE = (0.0, 0.5)
RESIDUAL = "|residual|, 0 to 0.5"


def save_panels(path: Path, examples: Sequence[Example], note: str = "") -> list[Path]:
    """Draws one row per example: input, reconstruction, residual, maps and mask.

    Args:
        path: PNG file to write.
        examples: what to show; nothing is written without any.
        note: a line below the panels.

    Returns:
        The file, if there is one.
    """
    if not examples:
        return []
    map_names = list(examples[0].maps)
    order = [n for n in map_names if n != "anomaly_map"] + ["anomaly_map"]
    restored = any(one.reconstruction is not None for one in examples)
    lesions = any(one.mask is not None and one.mask.any() for one in examples)
    titles = _titles(order, restored, lesions)
    lines = -(-len(titles) // PANEL_COLUMNS)
    rows, columns = lines * len(examples), -(-len(titles) // lines)
    width, height = 1.7 * columns + 1.2, 2.2 * rows + 0.4
    # Set by hand: finding a layout would take longer than everything else on many panels.
    margins = {
        "left": 0.1 / width,
        "right": 1 - 1.1 / width,
        "bottom": 0.3 / height,
        "top": 1 - 0.6 / height,
        "wspace": 0.03,
        "hspace": 0.32,
    }
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, gridspec_kw=margins
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for place, example in zip(axes.reshape(len(examples), -1), examples, strict=True):
        row = dict(zip(titles, place, strict=False))
        for title, axis in row.items():
            axis.set_title(title, fontsize=11)
        _draw_example(row, example, order)
    _add_scale(figure, 1 - 0.95 / width)
    if note:
        figure.supxlabel(note, fontsize=9, y=0.01)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
    return [path]


def _titles(order: Sequence[str], reconstructed: bool, masked: bool) -> list[str]:
    named = [_titled(name) for name in order]
    restored = ["reconstruction", RESIDUAL] if reconstructed else []
    return ["input", *restored, *named, *(["lesion mask"] if masked else [])]


def _draw_example(row: Mapping[str, Axes], example: Example, order: Sequence[str]) -> None:
    row["input"].imshow(example.image, cmap="gray", vmin=0, vmax=1)
    if example.reconstruction is not None:
        residual = np.abs(example.image - example.reconstruction)
        low, high = RESIDUAL_RANGE
        row["reconstruction"].imshow(example.reconstruction, cmap="gray", vmin=0, vmax=1)
        row[RESIDUAL].imshow(residual, cmap="magma", vmin=low, vmax=high)
    for name in order:
        shown = example.maps[name]
        row[_titled(name)].imshow(shown, cmap="magma", vmin=MAP_RANGE[0], vmax=MAP_RANGE[1])
    axis = row.get("lesion mask")
    if axis is not None and example.mask is not None:
        axis.imshow(example.mask, cmap="gray", vmin=0, vmax=1)
    elif axis is not None:
        axis.text(0.5, 0.5, "none given", ha="center", va="center", fontsize=9)
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    where = f"slice {example.index} of {example.case}" if example.index else example.case
    told = f"{example.kind}, score {example.score:.2f}: {where}"
    row["input"].annotate(
        told, (0, 1), (0, 24), "axes fraction", "offset points", fontsize=11, parse_math=False
    )


def _titled(name: str) -> str:
    return "fused map" if name == "anomaly_map" else f"{name} (sd)"


def _add_scale(figure: Figure, left: float) -> None:
    scale = matplotlib.cm.ScalarMappable(norm=matplotlib.colors.Normalize(*MAP_RANGE), cmap="magma")
    bar = figure.colorbar(scale, cax=figure.add_axes((left, 0.15, 0.01, 0.7)), extend="both")
    bar.set_label("sd above normal pixels", fontsize=9)
    bar.ax.tick_params(labelsize=9)


def save_regions(path: Path, regions: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> None:
    """Outlines the regions in which synthetic anomalies lie.

    Args:
        path: PNG file to write; nothing is written without any region.
        regions: images ``(H, W)`` in [0, 1], each with its region ``(H, W)`` bool.
    """
    if not regions:
        return
    columns = min(REGION_COLUMNS, len(regions))
    rows = -(-len(regions) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.4 * columns, 1.4 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (image, region) in zip(axes.flat, regions, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        if region.any() and not region.all():
            axis.contour(region, levels=[0.5], colors="#56B4E9", linewidths=0.8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def save_curves(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Draws the loss and its terms over the epochs.

    Args:
        path: PNG file to write.
        history: one mapping per epoch with `train_loss`, `val_loss` and so on; nothing is written
            for an empty one.
    """
    if not history:
        return
    terms = {
        "loss": "loss",
        "flow_loss": "flow (bits per dimension)",
        "recon_loss": "reconstruction (mean squared error)",
    }
    told = {name for epoch in history for name, value in epoch.items() if np.isfinite(value)}
    drawn = {
        name: title
        for name, title in terms.items()
        if name == "loss" or told & {f"train_{name}", f"val_{name}"}
    }
    figure, axes = plt.subplots(1, len(drawn), figsize=(10, 3), squeeze=False, layout="constrained")
    epochs = np.arange(1, len(history) + 1)
    for axis, (name, title) in zip(axes[0], drawn.items(), strict=True):
        for prefix, label, style in (("train", "training", "-"), ("val", "held-out", "--")):
            key = f"{prefix}_{name}"
            values = [epoch.get(key, np.nan) for epoch in history]
            if np.isfinite(values).any():
                axis.plot(epochs, values, style, label=label, marker="o", markersize=2)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def save_histogram(
    path: Path,
    normal: Sequence[float],
    anomalous: Sequence[float],
    threshold: float,
    *,
    unlabelled: Sequence[float] = (),
    held_out: Sequence[float] = (),
    reference: Sequence[float] | NDArray[np.float64] = (),
) -> None:
    """Draws the scores of normal and anomalous images with the threshold.

    Args:
        path: PNG file to write; nothing is written without any score.
        normal: scores of normal images.
        anomalous: scores of anomalous images.
        threshold: the score above which an image is flagged.
        unlabelled: scores of images of unknown label.
        held_out: scores of normal images of the calibration, drawn as images of their own.
        reference: scores of the held-out normal images of the calibration, drawn as a line of the
            same area as the images.
    """
    groups = (
        (normal, "normal", "#0072B2"),
        (anomalous, "anomalous", "#D55E00"),
        (unlabelled, "label unknown", "#009E73"),
        (held_out, "held-out normal", "#595959"),
    )
    everything = np.concatenate([np.asarray(values, dtype=float) for values, _, _ in groups])
    if not everything.size:
        return
    known = np.concatenate([everything, np.asarray(reference, dtype=float)])
    low, high = np.percentile(known, [0, 99])
    edges = np.linspace(low, max(high, threshold) + 0.5, 41)
    figure, axis = plt.subplots(figsize=(9, 3.6), layout="constrained")
    for values, label, colour in groups:
        if len(values):
            clipped = np.clip(values, edges[0], edges[-1])
            told = f"{label} ({len(values)})"
            axis.hist(clipped, bins=edges.tolist(), alpha=0.6, label=told, color=colour)
    if len(reference):
        axis.hist(
            np.clip(reference, edges[0], edges[-1]),
            bins=edges.tolist(),
            weights=np.full(len(reference), everything.size / len(reference)),
            histtype="step",
            color="#595959",
            label="held-out normal, scaled",
        )
    axis.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.2f}")
    axis.set_xlabel("score (standard deviations above held-out normal images)")
    axis.set_ylabel("images")
    if known.max() > edges[-1]:
        told = f"scores above {edges[-1]:.1f}, up to {known.max():.1f}, lie in the last bar"
        axis.set_title(told, fontsize=9, loc="right")
    axis.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def save_recalibration(path: Path, judged: Mapping[str, tuple[NDArray[np.float64], float]]) -> None:
    """Draws the scores of the same normal images by several calibrations, each with its threshold.

    Args:
        path: PNG file to write.
        judged: scores ``(N,)`` and threshold of each, by its name.
    """
    figure, axes = plt.subplots(1, len(judged), figsize=(8, 3), layout="constrained", sharey=True)
    for axis, (name, (scores, threshold)) in zip(axes, judged.items(), strict=True):
        axis.hist(scores, bins=40, color="#0072B2", alpha=0.6)
        axis.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.2f}")
        axis.set_title(f"{name}: {np.mean(scores > threshold):.1%} of these images above it")
        axis.set_xlabel("score (standard deviations)")
        axis.legend(fontsize=8)
    axes[0].set_ylabel("normal images")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)

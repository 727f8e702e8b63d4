"""The report's own pictures: curves with bands, calibration, and slices of a volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from pipelines.common import plainly, replacing
from pipelines.outputs import MAP_RANGE, SHOWN_FROM
from pipelines.report.content import ViewerVolume
from pipelines.report.curves import Curve, Judged, false_positives, precision_recall, roc
from pipelines.report.volumes import canonical, file_slice, spacing, window, worst

OURS, OTHER, MARK = "#0072B2", "#767676", "#000000"
OUTLINE = matplotlib.colors.ListedColormap(["#56B4E9"])
STILLS = 5


def draw_roc(path: Path, judged: Judged, threshold: float, baseline: str | None) -> None:
    """Draws the ROC and the precision-recall curve with their bands over patients.

    Args:
        path: PNG file to write.
        judged: images of both classes.
        threshold: the score above which an image is flagged, marked on both curves.
        baseline: name of the trivial score whose curve is drawn too.
    """
    flagged, anomalous = judged.scores > threshold, judged.labels == 1
    sensitivity = float(flagged[anomalous].mean())
    false_rate = float(flagged[~anomalous].mean())
    precision = float(anomalous[flagged].mean()) if flagged.any() else 1.0
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    left.plot([0, 1], [0, 1], ":", color=OTHER, linewidth=1)
    right.axhline(anomalous.mean(), linestyle=":", color=OTHER, linewidth=1)
    parts = (
        (left, roc, "AUROC", (false_rate, sensitivity)),
        (right, precision_recall, "AP", (sensitivity, precision)),
    )
    for axis, compute, name, point in parts:
        area = None if judged.note else name
        if baseline is not None:
            _plot(
                axis,
                compute(judged, judged.baselines[baseline], 0),
                plainly(baseline),
                area,
                OTHER,
                "--",
            )
        _plot(axis, compute(judged, judged.scores), "AE-Flow", area, OURS, "-")
        axis.plot(*point, "o", color=MARK, label="at the threshold", clip_on=False, zorder=5)
        _unit_axes(axis)
    left.set(xlabel="false-positive rate (1 - specificity)", ylabel="sensitivity", title="ROC")
    right.set(xlabel="recall (sensitivity)", ylabel="precision", title="Precision and recall")
    _finish(figure, path)


def draw_calibration(
    path: Path, judged: Judged, quantiles: NDArray[np.float64], target: float, measured: float
) -> None:
    """Draws the false-positive rate on test normals over the one the calibration promised.

    Args:
        path: PNG file to write.
        judged: images, some of them normal.
        quantiles: (Q,) ascending scores of held-out normal images.
        target: false-positive rate of the chosen threshold, in [0, 1].
        measured: share of the test normals above that threshold, in [0, 1].
    """
    curve = false_positives(judged, quantiles)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    largest = max(0.1, 2 * target, 1.5 * measured)
    for axis, end in zip(axes, (1.0, min(1.0, largest)), strict=True):
        axis.plot([0, 1], [0, 1], ":", color=OTHER, linewidth=1, label="as promised")
        _plot(axis, curve, "test normals", None, OURS, "-")
        axis.plot(
            target, measured, "o", color=MARK, label="chosen threshold", clip_on=False, zorder=5
        )
        _unit_axes(axis, end, _highest(curve, end))
        axis.set(xlabel="nominal false-positive rate", ylabel="measured false-positive rate")
    axes[0].set_title("All rates")
    axes[1].set_title("Low rates")
    _finish(figure, path)


def _plot(axis: Axes, curve: Curve, label: str, area: str | None, colour: str, style: str) -> None:
    told = label if area is None else f"{label}: {area} {curve.area:.3f}"
    axis.plot(curve.x, curve.y, style, color=colour, label=told)
    if curve.low is not None and curve.high is not None:
        axis.fill_between(
            curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0,
            label="95 % band over patients",
        )  # fmt: skip


def _highest(curve: Curve, end: float) -> float:
    """The top of an axis that holds all of a curve and its band up to `end`."""
    highest = curve.y if curve.high is None else np.maximum(curve.y, curve.high)
    return max(end, float(np.max(highest[curve.x <= end])))


def _unit_axes(axis: Axes, end: float = 1.0, top: float = 1.0) -> None:
    axis.set(xlim=(0, end), ylim=(0, top), box_aspect=1)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def draw_slices(path: Path, volume: ViewerVolume) -> None:
    """Draws axial slices of a volume without and with the map over them.

    Args:
        path: PNG file to write.
        volume: of any orientation; shown with the patient's right at the left.
    """
    image = canonical(volume.image, volume.affine)
    anomaly_map = canonical(volume.anomaly_map, volume.affine)
    mask = None if volume.mask is None else canonical(volume.mask, volume.affine) > 0
    low, high = window(image)
    across, down, _ = spacing(volume.affine)
    margins = {"left": 0.01, "right": 0.9, "bottom": 0.02, "top": 0.93, "wspace": 0, "hspace": 0.02}
    figure, axes = plt.subplots(
        2, STILLS, figsize=(2.1 * STILLS, 4.2), squeeze=False, gridspec_kw=margins
    )
    for column, level in zip(axes.T, _levels(volume, image.shape[2]), strict=False):
        for axis in column:
            axis.imshow(_plane(image, level), cmap="gray", vmin=low, vmax=high)
        shown = np.ma.masked_less(_plane(anomaly_map, level), SHOWN_FROM)
        column[1].imshow(shown, cmap="magma", vmin=MAP_RANGE[0], vmax=MAP_RANGE[1], alpha=0.7)
        if mask is not None:
            lesion = _plane(mask, level)
            border = np.ma.masked_equal(lesion & ~binary_erosion(lesion), 0)
            column[1].imshow(border, cmap=OUTLINE, interpolation="nearest")
        column[0].set_title(f"slice {file_slice(volume, 2, level)}", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
        axis.set_aspect(down / across)
    scale = matplotlib.cm.ScalarMappable(norm=matplotlib.colors.Normalize(*MAP_RANGE), cmap="magma")
    bar = figure.colorbar(scale, cax=figure.add_axes((0.915, 0.15, 0.015, 0.7)), extend="max")
    bar.set_label("sd above normal pixels", fontsize=9)
    _finish(figure, path)


def _levels(volume: ViewerVolume, count: int) -> list[int]:
    """Evenly spaced levels, the one to look at first among them."""
    top = worst(volume)[2]
    spread = max(1, count // (2 * STILLS))
    levels = list(range(top % spread, count, spread))
    first = min(max(0, top // spread - STILLS // 2), max(0, len(levels) - STILLS))
    return levels[first : first + STILLS]


def _plane(values: NDArray[Any], level: int) -> NDArray[Any]:
    """An axial plane of a volume in RAS+: anterior on top, the patient's right at the left."""
    plane: NDArray[Any] = values[::-1, ::-1, level].T
    return plane


def _finish(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)

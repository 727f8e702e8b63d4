"""Pictures: panels of single slices and curves of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipelines.common import replacing
from pipelines.outputs.examples import Example
from pipelines.outputs.traces import save_traces

MAP_RANGE = (0.0, 6.0)
"""The fixed colour scale of standardised maps, in standard deviations: a normal image stays dark
whatever else is in the batch."""

MAP_COLOURS = matplotlib.colormaps["magma"]
"""Its colours; with each look-up by name their table is made anew."""

PANEL_COLUMNS = 8
"""Pictures in a line of a panel: with more of them their names would be too small to read."""

REGION_COLUMNS = 8
"""Images in a row of the regions' picture."""

RESIDUAL_RANGE = (0.0, 0.5)
RESIDUAL = "|residual|, 0 to 0.5"
MASK = "lesion mask"

SIDE, GAP, LINE = 190, 6, 24
"""Of a panel in pixels: the longer side of a picture, what is between two, a line of text."""

SCALE_WIDTH = 80
LARGE, SMALL = 17, 14
"""Heights of letters in pixels."""


def save_panels(
    path: Path, examples: Sequence[Example], pixel_threshold: float | None = None, note: str = ""
) -> list[Path]:
    """Draws one row per example: input, reconstruction, residual, maps and mask; or traces.

    By Pillow: matplotlib would take ten times as long, and draws in one thread alone.

    Args:
        path: PNG file to write.
        examples: what to show; nothing is written without any.
        pixel_threshold: of the map, which a signal's trace is shown with.
        note: a line below the panels.

    Returns:
        The file, if there is one.
    """
    if not examples:
        return []
    if examples[0].of_signal:
        return save_traces(path, examples, pixel_threshold, note)
    map_names = list(examples[0].maps)
    order = [n for n in map_names if n != "anomaly_map"] + ["anomaly_map"]
    restored = any(one.reconstruction is not None for one in examples)
    lesions = any(one.mask is not None and one.mask.any() for one in examples)
    titles = _titles(order, restored, lesions)
    lines = -(-len(titles) // PANEL_COLUMNS)
    columns = -(-len(titles) // lines)
    block = LINE + lines * (LINE + SIDE) + 2 * GAP
    width, height = columns * (SIDE + GAP) + GAP + SCALE_WIDTH, block * len(examples) + 2 * GAP
    sheet = Image.new("RGB", (width, height + (LINE if note else 0)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, example in enumerate(examples):
        shown, top = _shown(example, order), number * block + GAP
        pen.text((GAP, top), _heading(example), "black", _font(LARGE))
        for place, title in enumerate(titles):
            line, column = divmod(place, columns)
            left, above = GAP + column * (SIDE + GAP), top + LINE + line * (LINE + SIDE)
            middle = left + SIDE // 2
            pen.text((middle, above + LINE // 2), title, "black", _font(LARGE), anchor="mm")
            if title in shown:
                picture = shown[title]
                sheet.paste(picture, (middle - picture.width // 2, above + LINE))
            elif title == MASK:
                centre = (middle, above + LINE + SIDE // 2)
                pen.text(centre, "none given", "black", _font(SMALL), anchor="mm")
    _draw_scale(sheet, width - SCALE_WIDTH + 2 * GAP, round(0.15 * height), round(0.85 * height))
    pen.text((width // 2, height + LINE // 2), note, "black", _font(SMALL), anchor="mm")
    with replacing(path) as temporary:
        sheet.save(temporary)
    return [path]


def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's, which every installation has."""
    return ImageFont.truetype(matplotlib.get_data_path() + "/fonts/ttf/DejaVuSans.ttf", size)


def _titles(order: Sequence[str], reconstructed: bool, masked: bool) -> list[str]:
    named = [_titled(name) for name in order]
    restored = ["reconstruction", RESIDUAL] if reconstructed else []
    return ["input", *restored, *named, *([MASK] if masked else [])]


def _shown(example: Example, order: Sequence[str]) -> dict[str, Image.Image]:
    """The pictures of an example by their titles."""
    shown = {"input": _coloured(example.image, "gray", (0, 1))}
    if example.reconstruction is not None:
        residual = np.abs(example.image - example.reconstruction)
        shown["reconstruction"] = _coloured(example.reconstruction, "gray", (0, 1))
        shown[RESIDUAL] = _coloured(residual, "magma", RESIDUAL_RANGE)
    for name in order:
        shown[_titled(name)] = _coloured(example.maps[name], "magma", MAP_RANGE)
    if example.mask is not None:
        nearest = Image.Resampling.NEAREST
        shown[MASK] = _coloured(example.mask, "gray", (0, 1), nearest)
    return shown


def _coloured(
    values: NDArray[Any],
    colours: str,
    limits: tuple[float, float],
    way: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """An image or a map ``(H, W)``, its longer side of `SIDE` pixels."""
    width, height = (max(1, round(SIDE * n / max(values.shape))) for n in values.shape[::-1])
    fitted = Image.fromarray(values.astype(np.float32)).resize((width, height), way)
    unit = (np.asarray(fitted) - limits[0]) / (limits[1] - limits[0])
    return Image.fromarray(matplotlib.colormaps[colours](unit, bytes=True)[..., :3])


def _heading(example: Example) -> str:
    where = f"slice {example.index} of {example.case}" if example.index else example.case
    return f"{example.kind}, score {example.score:.2f}: {where}"


def _titled(name: str) -> str:
    return "fused map" if name == "anomaly_map" else f"{name} (sd)"


def _draw_scale(sheet: Image.Image, left: int, top: int, bottom: int) -> None:
    """The colours of the maps between two heights, pointed where values go on."""
    pen, right = ImageDraw.Draw(sheet), left + 14
    ramp = MAP_COLOURS(np.linspace(1, 0, bottom - top), bytes=True)[:, None, :3]
    sheet.paste(Image.fromarray(ramp.repeat(right - left, 1)), (left, top))
    outline = [(left, top), ((left + right) // 2, top - 14), (right, top)]
    outline += [(right, bottom), ((left + right) // 2, bottom + 14), (left, bottom)]
    pen.polygon(outline[:3], tuple(ramp[0, 0].tolist()))
    pen.polygon(outline[3:], tuple(ramp[-1, 0].tolist()))
    pen.line([*outline, outline[0]], "black")
    low, high = MAP_RANGE
    for value in range(int(low), int(high) + 1):
        at = bottom - round((value - low) / (high - low) * (bottom - top))
        pen.line([(right, at), (right + 4, at)], "black")
        pen.text((right + 8, at), str(value), "black", _font(SMALL), anchor="lm")
    told = "sd above normal pixels"
    label = Image.new("RGB", (round(_font(SMALL).getlength(told)), LINE), "white")
    ImageDraw.Draw(label).text((0, LINE // 2), told, "black", _font(SMALL), anchor="lm")
    upright = label.rotate(90, expand=True)
    sheet.paste(upright, (right + 24, (top + bottom - upright.height) // 2))


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
    of: str = "images",
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
        of: what has the scores.
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
    axis.set_xlabel(f"score (standard deviations above held-out normal {of})")
    axis.set_ylabel(of)
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

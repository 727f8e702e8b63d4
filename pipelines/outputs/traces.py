"""Pictures of signals: the signal, its reconstruction and its anomaly trace on one time axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from pipelines.common import replacing
from pipelines.data import SignalSample

if TYPE_CHECKING:
    from pipelines.outputs.beside import Shown
    from pipelines.outputs.examples import Example
    from pipelines.scoring import ScoredCase

STRETCH = 12
"""Windows that a picture shows of a signal, the telling one in the middle."""

CHANNELS = 3
"""Channels that a picture shows, the first ones."""

SIGNAL, RESTORED, TRACE, ALARM = "#404040", "#0072B2", "#595959", "#D55E00"
DASHES = (0, (3, 1.5))
IS_EVENT: dict[str, Any] = {"facecolor": "#E69F00", "alpha": 0.3, "linewidth": 0}
IS_GAP: dict[str, Any] = {
    "facecolor": "none", "edgecolor": "#BBBBBB", "hatch": "////", "linewidth": 0
}  # fmt: skip


def stretch(scored: ScoredCase, position: int) -> dict[str, Any]:
    """What a picture shows of a signal: `STRETCH` windows, or the whole of a shorter one.

    Args:
        scored: a signal.
        position: of the window in the middle, among those that were scored.

    Returns:
        By the names of an `Example`: ``image`` and ``reconstruction`` ``(C, T)`` of the first
        channels in the file's units, NaN in gaps; ``maps``, ``mask`` and ``time`` ``(T,)``; and
        where the ``window`` lies in these.
    """
    sample = scored.sample
    assert isinstance(sample, SignalSample)
    signal, geometry = sample.signal, sample.geometry
    length = min(geometry.length, STRETCH * geometry.window)
    begin = geometry.starts[int(sample.indices[position])]
    middle = begin + geometry.window // 2
    first = int(np.clip(middle - length // 2, 0, geometry.length - length))
    shown = slice(first, first + length)
    restored = None
    if scored.reconstruction is not None:
        windows = sample.restored(scored.reconstruction)
        whole = geometry.blend(windows, sample.indices).numpy()[:CHANNELS, shown]
        restored = np.where(signal.seen[shown], whole, np.nan).astype(np.float32)
    time = signal.time[shown]
    return {
        "image": signal.values[:CHANNELS, shown],
        "reconstruction": restored,
        "maps": {"anomaly_map": sample.trace(scored.anomaly_map)[shown]},
        "mask": None if sample.marked is None else sample.marked[shown],
        "window": (begin - first, begin - first + geometry.window),
        "time": (1e3 * time).round().astype("datetime64[ms]") if signal.dates else time,
    }


def draw_traces(
    examples: Sequence[Example], threshold: float | None = None, note: str = ""
) -> Figure:
    """Draws per example the signal with its reconstruction, and its anomaly trace below.

    Args:
        examples: of signals, at least one.
        threshold: of samples, in standard deviations; what lies above it is an alarm.
        note: a line below.
    """
    channels = [len(np.atleast_2d(one.image)) for one in examples]
    heights = [height for count in channels for height in (*[1.5] * count, 1.2, 0.3)]
    figure = plt.figure(figsize=(12, 0.75 * sum(heights) + 0.6), layout="constrained")
    rows = iter(figure.subplots(len(heights), 1, height_ratios=heights))
    for example, count in zip(examples, channels, strict=True):
        _draw([next(rows) for _ in range(count + 1)], example, threshold)
        next(rows).set_axis_off()
    handles = _legend(examples, threshold)
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9)
    if note:
        figure.supxlabel(note, fontsize=9)
    return figure


def save_traces(
    path: Path, examples: Sequence[Example], threshold: float | None = None, note: str = ""
) -> list[Path]:
    """Writes what `draw_traces` draws as a PNG file, and gives its path."""
    return _finish(draw_traces(examples, threshold, note), path)


def save_traces_beside(path: Path, shown: Mapping[str, Shown]) -> None:
    """Draws a stretch of a signal, and the trace of each method on one scale.

    Args:
        path: PNG file to write.
        shown: the stretch by each method, by its name; of all methods the same.
    """
    one = next(iter(shown.values()))
    figure, axes = plt.subplots(
        1 + len(shown), 1, figsize=(12, 1.3 * (1 + len(shown))), layout="constrained", sharex=True
    )
    values = np.atleast_2d(one.image)
    time = np.arange(values.shape[1])
    axes[0].plot(time, values[0], color=SIGNAL, linewidth=0.8)
    axes[0].set_ylabel("signal", rotation=0, ha="right", va="center")
    for axis, (name, each) in zip(axes[1:], shown.items(), strict=True):
        axis.plot(time, each.map, color=RESTORED, linewidth=0.9)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    for axis in axes:
        _shade(axis, time, one.mask, np.asarray(np.isnan(values).any(axis=0)))
    highest = max(float(np.nanmax(each.map)) for each in shown.values())
    for axis in axes[1:]:
        axis.set_ylim(-2, max(6.0, highest))
    axes[-1].set(xlabel="sample of the stretch", xlim=(0, len(time) - 1))
    _finish(figure, path)


def _draw(axes: Sequence[Axes], example: Example, threshold: float | None) -> None:
    values, trace = np.atleast_2d(example.image), example.maps["anomaly_map"]
    time = np.arange(len(trace)) if example.time is None else example.time
    for axis, row in zip(axes, values, strict=False):
        axis.plot(time, row, color=SIGNAL, linewidth=0.9)
        axis.tick_params(labelbottom=False)
    if example.reconstruction is not None:
        for axis, row in zip(axes, np.atleast_2d(example.reconstruction), strict=False):
            axis.plot(time, row, color=RESTORED, linewidth=0.9, linestyle=DASHES)
    below = axes[-1]
    below.plot(time, trace, color=TRACE, linewidth=0.9)
    below.set_ylabel("sd", fontsize=9)
    if threshold is not None and np.isfinite(threshold):
        below.axhline(threshold, color="black", linestyle="--", linewidth=0.8)
        above = np.where(trace > threshold, trace, np.nan)
        below.fill_between(time, threshold, above, color=ALARM, alpha=0.6, linewidth=0)
        below.plot(time, above, color=ALARM, linewidth=1.2, marker=".", markersize=2)
    for axis in axes:
        _shade(axis, time, example.mask, np.asarray(np.isnan(values).any(axis=0)))
        axis.set_xlim(time[0], time[-1])
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    if example.time is not None and np.issubdtype(time.dtype, np.datetime64):
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        below.xaxis.set_major_locator(locator)
        below.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    if example.window is not None:
        for axis in axes:
            for edge in example.window:
                axis.axvline(time[min(edge, len(time) - 1)], color="black", linewidth=0.8)
    title = f"{example.kind}, score {example.score:.2f}: window {example.index} of {example.case}"
    axes[0].set_title(title, fontsize=10, loc="left")


def _shade(
    axis: Axes, time: NDArray[Any], events: NDArray[np.bool_] | None, gaps: NDArray[np.bool_]
) -> None:
    """Marks true events, and gaps."""
    for mask, look in ((events, IS_EVENT), (gaps, IS_GAP)):
        if mask is None:
            continue
        edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
        for first, end in edges.tolist():
            axis.axvspan(time[first], time[min(end, len(time) - 1)], zorder=0, **look)


def _legend(examples: Sequence[Example], threshold: float | None) -> list[Any]:
    handles: list[Any] = [Line2D([], [], color=SIGNAL, label="signal")]
    if any(one.reconstruction is not None for one in examples):
        handles.append(
            Line2D([], [], color=RESTORED, linestyle=DASHES, label="reconstruction"),
        )
    handles.append(Line2D([], [], color=TRACE, label="anomaly trace, sd above normal samples"))
    if any(one.window is not None for one in examples):
        handles.append(
            Line2D(
                [], [], color="black", linestyle="", marker="|", markersize=9, label="the window"
            )
        )
    if threshold is not None and np.isfinite(threshold):
        told = f"above the threshold, {threshold:.2f}"
        handles.append(Line2D([], [], color=ALARM, label=told))
    if any(one.mask is not None and one.mask.any() for one in examples):
        handles.append(Patch(**IS_EVENT, label="true event"))
    if any(not np.isfinite(one.image).all() for one in examples):
        handles.append(Patch(**IS_GAP, label="gap"))
    return handles


def _finish(figure: Any, path: Path) -> list[Path]:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
    return [path]

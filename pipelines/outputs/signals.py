"""What is written of a signal: its trace on its own clock, and a small picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipelines.common import write_csv
from pipelines.data import SignalSample
from pipelines.outputs.pictures import MAP_COLOURS, MAP_RANGE

if TYPE_CHECKING:
    from pipelines.scoring import ScoredCase

COLUMNS = ("time", "score", "above", "seen")
DIGITS = 5
"""Of a score in a trace."""

THUMBNAIL = (144, 48)
"""Width and height in pixels."""

SHOWN_FROM = 2.0
"""Standard deviations from which a map is laid over an image."""

QUALITY = 70
"""Of the JPEG: some 1 kB each."""

LINE = (70, 70, 70)
"""Colour of a signal where nothing was found."""


def write_trace(folder: Path, scored: ScoredCase, pixel_threshold: float) -> list[Path]:
    """Writes the anomaly trace of a signal.

    ``<case>_anomaly.csv`` has a row per sample of the signal's clock, those of gaps included: its
    ``time`` as the file tells it, its ``score`` in standard deviations, whether that is ``above``
    the threshold of samples (0 or 1), and whether the sample was ``seen`` (0 in gaps). Score and
    decision are empty in gaps, and where no window was scored. An ensemble adds a column ``std``.

    Returns:
        The file.
    """
    sample = scored.sample
    assert isinstance(sample, SignalSample)
    signal, trace = sample.signal, np.asarray(scored.grid_map)
    known = np.isfinite(trace)
    columns = {
        "time": signal.told_time(signal.time),
        "score": _cells(trace),
        "above": np.where(known, (trace > pixel_threshold).astype(int).astype(str), "").tolist(),
        "seen": signal.seen.astype(int).tolist(),
    }
    if scored.std_map is not None:
        columns["std"] = _cells(np.asarray(scored.on_grid(scored.std_map)))
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path = folder / f"{sample.case.name}_anomaly.csv"
    write_csv(path, rows, tuple(columns))
    return [path]


def _cells(values: NDArray[np.float32]) -> list[float | str]:
    return ["" if np.isnan(one) else float(f"{one:.{DIGITS}g}") for one in values]


def signal_thumbnail(scored: ScoredCase) -> bytes:
    """The first channel of a signal as a JPEG, in the maps' colours where its trace is high."""
    sample = scored.sample
    assert isinstance(sample, SignalSample)
    width, height = THUMBNAIL
    values, trace = sample.signal.filled[0], np.nan_to_num(np.asarray(scored.grid_map))
    edges = np.linspace(0, len(values), width + 1).astype(int)
    low, span = float(values.min()), float(np.ptp(values)) or 1.0
    sheet = Image.new("RGB", THUMBNAIL, "white")
    pen = ImageDraw.Draw(sheet)
    for column, (first, end) in enumerate(zip(edges, edges[1:], strict=False)):
        own = slice(first, max(end, first + 1))
        top, bottom = (
            round((height - 1) * (1 - (float(one) - low) / span))
            for one in (values[own].max(), values[own].min())
        )
        pen.line((column, top, column, bottom), _colour(float(trace[own].max())))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def _colour(highest: float) -> tuple[int, ...]:
    if highest < SHOWN_FROM:
        return LINE
    found = MAP_COLOURS(0.9 * highest / MAP_RANGE[1], bytes=True)
    return tuple(int(one) for one in found[:3])

"""Pictures of signals."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from pipelines.data.cases import Case
from pipelines.data.signals import SignalLoader
from pipelines.outputs.beside import Shown, save_beside
from pipelines.outputs.examples import Example, example_of
from pipelines.outputs.pictures import save_panels
from pipelines.outputs.traces import STRETCH, draw_traces
from pipelines.scoring.cases import ScoredCase

LENGTH, WINDOW = 640, 16
EVENT, GAP = slice(300, 320), slice(340, 348)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def example(tmp_path: Path, fake_scored: Callable[..., ScoredCase]) -> Example:
    """A long signal of two channels in large units, its map the number of each window."""
    values = 1e6 + 1e5 * np.sin(np.arange(LENGTH) / 5)
    values[GAP] = np.nan
    labels = np.zeros(LENGTH, bool)
    labels[EVENT] = True
    path = tmp_path / "a.npz"
    np.savez(path, signal=np.stack([values, -values]), label=labels, rate=np.array(4.0))
    case = Case("a", "a", (path,), mask=path)
    sample = SignalLoader(WINDOW, WINDOW, training=(case,))(case)
    count = len(sample.images)
    windows = np.arange(float(count))[:, None].repeat(WINDOW, 1)
    scored = fake_scored(sample, anomaly_map=windows)
    scored = replace(scored, reconstruction=sample.images)
    return example_of("missed", scored, 310 // WINDOW)


def test_a_stretch_has_the_window_in_its_middle_and_the_units_of_the_file(example: Example) -> None:
    length, (first, end) = STRETCH * WINDOW, example.window or (0, 0)
    assert example.of_signal and example.time is not None and len(example.time) == length
    assert end - first == WINDOW and abs((first + end) / 2 - length / 2) <= 1
    start = round(4 * float(example.time[0]))
    assert example.mask is not None and np.flatnonzero(example.mask)[0] == EVENT.start - start
    assert example.image.shape == (2, length) and np.nanmin(example.image[0]) > 8e5
    assert example.reconstruction is not None
    gap = np.isnan(example.image[0])
    assert np.array_equal(gap, np.isnan(example.reconstruction[0])) and gap.sum() == 8
    assert np.array_equal(gap, np.isnan(example.maps["anomaly_map"]))
    np.testing.assert_allclose(example.reconstruction, example.image, rtol=1e-3)


def test_a_picture_marks_events_gaps_and_what_lies_above_the_threshold(example: Example) -> None:
    figure = draw_traces([example], threshold=19.5)
    (legend,) = figure.legends
    told = [text.get_text() for text in legend.get_texts()]
    assert told[-3:] == ["above the threshold, 19.50", "true event", "gap"]
    *channels, trace, _ = figure.axes
    assert len(channels) == 2 and "window" in channels[0].get_title(loc="left")
    spans = [patch.get_extents().width for patch in trace.patches]
    assert len(spans) == 2 and spans[0] / spans[1] == pytest.approx(20 / 8, rel=0.02)
    above = trace.lines[2].get_ydata()
    assert np.nanmin(above) == 20 and 0 < np.isfinite(above).sum() < len(above)
    quiet = draw_traces([replace(example, mask=None, reconstruction=None)])
    told = [text.get_text() for text in quiet.legends[0].get_texts()]
    assert told == ["signal", "anomaly trace, sd above normal samples", "the window", "gap"]


def test_panels_and_comparisons_take_signals(example: Example, tmp_path: Path) -> None:
    alone = replace(example, image=example.image[0], time=None, window=None)
    assert save_panels(tmp_path / "a.png", [example, alone], 1.0) == [tmp_path / "a.png"]
    Shown.of(example).save(tmp_path)
    again = Shown.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.image, example.image)
    save_beside(tmp_path / "b.png", {"aeflow": again, "donut": again})
    heights = [Image.open(tmp_path / name).height for name in ("a.png", "b.png")]
    assert min(heights) > 200


def test_dates_are_kept(example: Example) -> None:
    dates = np.datetime64("2026-01-05") + np.arange(len(example.maps["anomaly_map"]))
    figure = draw_traces([replace(example, time=dates.astype("datetime64[ms]"))])
    figure.canvas.draw()
    ticks = [tick.get_text() for tick in figure.axes[2].get_xticklabels()]
    assert any("Feb" in tick or "Mar" in tick for tick in ticks)

"""The report's own pictures: what their axes hold."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from pipelines.report import drawings
from pipelines.report.curves import Judged
from pipelines.report.drawings import STILLS, draw_calibration, draw_slices


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is saved."""
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: saved.append(self))
    monkeypatch.setattr(drawings, "replacing", lambda path: nullcontext(path))
    return saved


def test_low_rates_have_room_for_their_band(figures: list[Figure]) -> None:
    rng = np.random.default_rng(0)
    scores = np.where(np.arange(200) % 2, 3.0, rng.normal(size=200))  # half of the normals alarm
    judged = Judged(np.zeros(200, np.int64), scores, np.arange(200).astype(str), {})
    draw_calibration(Path(), judged, np.linspace(-2, 2, 1001), 0.05, 0.05)
    axis = figures[0].axes[1]
    line = axis.lines[1]
    seen = line.get_xdata() <= axis.get_xlim()[1]
    assert axis.get_xlim()[1] == 0.1
    assert axis.get_ylim()[1] > line.get_ydata()[seen].max() >= 0.5
    assert plt.get_fignums() == []


@pytest.mark.parametrize("number", [0, 1, 7, 11])
def test_stills_hold_the_worst_slice_in_its_proportions(
    figures: list[Figure], volume_of, number: int
) -> None:
    scores = dict.fromkeys(range(12), 0.0) | {number: 5.0}
    affine = np.diag([-1.0, 4.0, 2.0, 1.0])
    draw_slices(Path(), replace(volume_of(), slice_scores=scores, affine=affine))
    axes = figures[0].axes
    assert f"slice {number}" in [axis.get_title() for axis in axes[:STILLS]]
    assert {axis.get_aspect() for axis in axes[: 2 * STILLS]} == {4.0}

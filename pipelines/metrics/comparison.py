"""Figures of several methods on the same images, each trained once or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.events import EVENT_FIGURES
from pipelines.metrics.figure import Figure
from pipelines.metrics.image import mean_figure
from pipelines.metrics.pixel import PixelHistogram, mean_pixel_ap
from pipelines.metrics.rows import ScoreRow

REFERENCE = "aeflow"
"""The method that all others are compared with."""

AVERAGED = (
    "matched_auroc", "pixel_auroc", "aupro_03", "dice_at_threshold", "dice_oracle", "sensitivity",
    "specificity", "realised_fpr", *EVENT_FIGURES,
)  # fmt: skip
"""Figures of which several trainings tell the mean alone, without an interval."""


@dataclass(frozen=True)
class Judged:
    """One training's scores of the test images.

    Attributes:
        rows: of ``scores.csv``, of all cases.
        pixels: of the fused maps.
        baseline_pixels: of the maps of the trivial scores, by name.
        metrics: the content of ``metrics.json``.
    """

    rows: Sequence[ScoreRow]
    pixels: PixelHistogram
    baseline_pixels: Mapping[str, PixelHistogram]
    metrics: Mapping[str, Any]

    @cached_property
    def images(self) -> dict[tuple[str, int | None], ScoreRow]:
        """The labelled rows of single images, by case and slice."""
        return {
            (row.case, row.slice): row
            for row in self.rows
            if row.label is not None and not row.is_whole
        }


def compare(methods: Mapping[str, Sequence[Judged]]) -> dict[str, Any]:
    """Compares methods on the images that all of them have scored.

    Args:
        methods: the trainings of each method, at least one.

    Returns:
        Plain values: ``images``, the number compared; ``best_trivial``, the name of the trivial
        score that ranks best; ``methods`` and ``baselines``, of each by name its figures as
        `Figure.as_dict` has them: means over its trainings, and paired differences
        ``minus_reference`` and ``minus_trivial`` of the AUROC, ``pixel_minus_reference`` and
        ``pixel_minus_trivial`` of the pixel average precision.
    """
    every = [one for trainings in methods.values() for one in trainings]
    first = every[0]
    keys = [key for key in first.images if all(key in one.images for one in every)]
    if not keys:
        return {"images": 0, "best_trivial": None, "methods": {}, "baselines": {}}
    table = _Table(keys, first)
    trivial = {name: table.baseline(one, name) for one in every for name in table.names(one)}
    maps = {name: h for one in every for name, h in one.baseline_pixels.items()}
    baselines = {name: table.ranked([scores]) for name, scores in trivial.items()}
    for name, figures in baselines.items():
        of_each = [one.metrics.get("baselines", {}).get(name) for one in every]
        told: Mapping[str, Any] = next(filter(None, of_each), {})  # the same images, the same score
        for figure in ("matched_auroc", *EVENT_FIGURES):
            figures[figure] = told.get(figure, Figure(None).as_dict())
    for name in maps.keys() & baselines.keys():
        baselines[name]["pixel_ap"] = mean_pixel_ap([maps[name]]).as_dict()
    best = max(
        (name for name, one in baselines.items() if one["image_auroc"]["value"] is not None),
        key=lambda name: baselines[name]["image_auroc"]["value"],
        default=None,
    )
    scores = {n: [table.scores(one) for one in each] for n, each in methods.items()}
    found = {}
    for name, trainings in methods.items():
        own, pixels = scores[name], [one.pixels for one in trainings]
        figures = table.ranked(own) | {"pixel_ap": mean_pixel_ap(pixels).as_dict()}
        figures |= {n: _mean([one.metrics.get(n) for one in trainings]) for n in AVERAGED}
        if best is not None:
            figures["minus_trivial"] = table.difference(own, [trivial[best]])
        if best in maps:
            figures["pixel_minus_trivial"] = _pixel_difference(pixels, [maps[best]])
        if name != REFERENCE and REFERENCE in methods:
            theirs = [one.pixels for one in methods[REFERENCE]]
            figures["minus_reference"] = table.difference(own, scores[REFERENCE])
            figures["pixel_minus_reference"] = _pixel_difference(pixels, theirs)
        found[name] = figures
    return {
        "images": len(keys), "best_trivial": best, "methods": found, "baselines": baselines,
    }  # fmt: skip


class _Table:
    """Images in one order, with their labels and patients."""

    def __init__(self, keys: Sequence[tuple[str, int | None]], one: Judged) -> None:
        self.keys = keys
        self.labels = np.array([one.images[key].label for key in keys], dtype=np.int64)
        self.patients = [one.images[key].patient for key in keys]

    def scores(self, one: Judged) -> NDArray[np.float64]:
        return np.array([one.images[key].score for key in self.keys])

    def names(self, one: Judged) -> tuple[str, ...]:
        return tuple(one.images[self.keys[0]].baselines)

    def baseline(self, one: Judged, name: str) -> NDArray[np.float64]:
        return np.array([one.images[key].baselines[name] for key in self.keys])

    def ranked(self, trainings: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
        return {
            metric: mean_figure(self.labels, trainings, self.patients, metric).as_dict()
            for metric in ("image_auroc", "image_ap")
        }

    def difference(
        self, ours: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]]
    ) -> dict[str, Any]:
        return mean_figure(self.labels, ours, self.patients, minus=theirs).as_dict()


def _pixel_difference(
    ours: Sequence[PixelHistogram], theirs: Sequence[PixelHistogram]
) -> dict[str, Any]:
    if ours[0].patients != theirs[0].patients:
        return Figure(None).as_dict()
    return mean_pixel_ap(ours, minus=theirs).as_dict()


def _mean(figures: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """The figure of one training, or the mean of several without an interval."""
    known = [one for one in figures if one is not None and one["value"] is not None]
    if len(known) == 1 == len(figures):
        return dict(known[0])
    if len(known) < len(figures):
        return Figure(None).as_dict()
    return Figure(float(np.mean([one["value"] for one in known]))).as_dict()

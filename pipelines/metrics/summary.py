"""What an evaluation reports: metrics with intervals, beside the trivial scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from networks import part_column
from pipelines.metrics.events import EventCounts, event_metrics, matched_events
from pipelines.metrics.figure import Figure, class_patients
from pipelines.metrics.image import image_metrics, mean_figure
from pipelines.metrics.matching import LEVEL_TOLERANCE, SHARPNESS_TOLERANCE, matched_auroc
from pipelines.metrics.pixel import PixelHistogram, patient_dice, pixel_metrics
from pipelines.metrics.ranking import RankedScores, auroc
from pipelines.metrics.rows import ScoreRow

OURS = ""
"""Among the counts of events: those of our own trace."""

PIXEL_FIGURES = ("pixel_ap", "pixel_auroc", "aupro_03", "dice_at_threshold", "dice_oracle")


def summarize(
    rows: Sequence[ScoreRow],
    pixels: PixelHistogram,
    baseline_pixels: Mapping[str, PixelHistogram],
    *,
    threshold: float,
    pixel_threshold: float,
    volumetric: bool,
    events: Mapping[str, Sequence[Sequence[EventCounts]]] | None = None,
) -> dict[str, Any]:
    """Turns an evaluation's rows and histograms into the content of ``metrics.json``.

    Args:
        rows: the rows of ``scores.csv``; those without a label do not count.
        pixels: pixels of our map.
        baseline_pixels: pixels of the maps of the trivial scores, by name.
        threshold: of the image score, fixed on normal images.
        pixel_threshold: of the map, fixed on normal images.
        volumetric: whether the rows are slices of volumes, to be matched by level, or windows of
            signals, which are not matched; pictures are matched by sharpness.
        events: of signals with marks, what `count_events` gives of each: under `OURS` at the
            threshold of the map, under the trivial traces' names at each of `LEVELS`.

    Returns:
        Plain values; every figure is as `Figure.as_dict` has it.
    """
    known = [row for row in rows if row.label is not None]
    table = _Table([row for row in known if not row.is_whole], volumetric)
    of_normal, of_anomalous = class_patients(table.labels, table.patients)
    result: dict[str, Any] = {
        "threshold": Figure(threshold).as_dict(),
        "pixel_threshold": Figure(pixel_threshold).as_dict(),
        "n_normal": Figure(float((table.labels == 0).sum())).as_dict(),
        "n_anomalous": Figure(float((table.labels == 1).sum())).as_dict(),
        "n_patients": Figure(float(len(set(table.patients)))).as_dict(),
        "n_normal_patients": Figure(float(of_normal)).as_dict(),
        "n_anomalous_patients": Figure(float(of_anomalous)).as_dict(),
        "baselines": {},
    }
    if not len(table.labels):
        return result
    figures = image_metrics(
        table.labels, table.column("score"), table.column("flagged"), table.patients
    )
    measured = pixel_metrics(pixels, pixel_threshold)
    result |= {name: figure.as_dict() for name, figure in figures.items()}
    result |= {name: measured[name].as_dict() for name in PIXEL_FIGURES}
    result["matched_auroc"] = table.matched("score") | {"matched_by": table.key_name}
    parts = [part_column(name) for name in table.rows[0].parts]
    result["parts"] = {name: table.ranking(name) for name in parts}
    baselines = {n: table.ranking(n) | table.versus(n) for n in table.rows[0].baselines}
    oracle = ("pixel_ap", "pixel_auroc", "aupro_03", "dice_oracle")
    for name in baseline_pixels.keys() & baselines if volumetric else ():
        trivial = pixel_metrics(baseline_pixels[name], float("inf"))
        baselines[name] |= {figure: trivial[figure].as_dict() for figure in oracle}
    if events:
        ours = [one for (one,) in events[OURS]]
        result |= _told(event_metrics(ours))
        for name in events.keys() & baselines:
            baselines[name] |= _told(event_metrics(matched_events(ours, events[name])))
    result["baselines"] = baselines
    if volumetric:
        result["volumes"] = _volume_figures([row for row in known if row.is_whole])
    result["patients"] = _patient_figures(table, patient_dice(pixels, pixel_threshold))
    return result


def _told(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: figure.as_dict() for name, figure in figures.items()}


def _volume_figures(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """AUROC, AP and decisions over whole volumes; without a threshold nothing is flagged."""
    if not rows:
        return {}
    labels = [int(row.label or 0) for row in rows]
    patients = [row.patient for row in rows]
    flagged = [bool(row.flagged) for row in rows]
    scores = [row.score for row in rows]
    figures = image_metrics(labels, scores, flagged, patients)
    return {name: figure.as_dict() for name, figure in figures.items()} | {
        "n_normal": Figure(float(labels.count(0))).as_dict(),
        "n_anomalous": Figure(float(labels.count(1))).as_dict(),
    }


def _patient_figures(table: _Table, dice: Mapping[str, float | None]) -> dict[str, Any]:
    """Per patient: judged images, AUROC among them, share flagged, Dice at the pixel threshold."""
    scores, flagged = table.column("score"), table.column("flagged")
    patients = np.array(table.patients)
    found = {}
    for patient in sorted(set(table.patients)):
        own = patients == patient
        labels = table.labels[own]
        area = auroc(*RankedScores.of(labels, scores[own]).counts()).item()
        found[patient] = {
            "n_normal": int((labels == 0).sum()),
            "n_anomalous": int((labels == 1).sum()),
            "image_auroc": None if np.isnan(area) else area,
            "flagged": int(flagged[own].sum()),
            "dice_at_threshold": dice.get(patient),
        }
    return found


class _Table:
    """Labelled rows as arrays, with what pairs are matched by."""

    def __init__(self, rows: Sequence[ScoreRow], volumetric: bool) -> None:
        self.rows = rows
        self.cells = [row.cells() for row in rows]
        self.labels = np.array([row.label for row in rows], dtype=np.int64)
        self.patients = [row.patient for row in rows]
        self.key_name = "slice" if volumetric else "sharpness"
        self.volumetric = volumetric and not any(row.level == "window" for row in rows)

    def column(self, name: str) -> NDArray[np.float64]:
        return np.array([cells[name] for cells in self.cells], dtype=np.float64)

    def _matching(self) -> dict[str, Any]:
        if self.volumetric:
            return {"key": self.column("slice"), "tolerance": LEVEL_TOLERANCE, "relation": "abs"}
        key = -self.column("sharpness")
        return {"key": key, "tolerance": SHARPNESS_TOLERANCE, "relation": "log_ratio"}

    def _can_match(self) -> bool:
        return self.volumetric or "sharpness" in self.rows[0].baselines

    def matched(self, name: str, minus: str | None = None) -> dict[str, Any]:
        """Matched AUROC of a column, less that of another where one is named."""
        if not self._can_match():
            return Figure(None).as_dict()
        columns = [self.column(own) for own in (name, minus) if own]
        return matched_auroc(
            self.labels, *columns, patients=self.patients, **self._matching()
        ).as_dict()

    def ranking(self, name: str) -> dict[str, Any]:
        """AUROC and AP of a column alone, and its AUROC over matched pairs."""
        scores = self.column(name)
        figures = image_metrics(self.labels, scores, np.zeros(len(scores)), self.patients)
        return {
            "image_auroc": figures["image_auroc"].as_dict(),
            "image_ap": figures["image_ap"].as_dict(),
            "matched_auroc": self.matched(name),
        }

    def versus(self, name: str) -> dict[str, Any]:
        """Our score minus a baseline on the same images: AUROC, and matched AUROC."""
        ours, theirs = self.column("score"), self.column(name)
        difference = mean_figure(self.labels, [ours], self.patients, minus=[theirs])
        result = {"difference": difference.as_dict()}
        if self._can_match():
            result["matched_difference"] = self.matched("score", name)
        return result

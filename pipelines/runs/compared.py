"""What came out of the trainings of a comparison, as a table and a page."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.batch import load_result
from pipelines.common import write_csv
from pipelines.metrics import EVENT_FIGURES, Judged, PixelHistogram, ScoreRow, compare
from pipelines.outputs import Shown
from pipelines.report import ComparisonContent, words_for, write_comparison_page
from pipelines.runs.record import COST_NAME, MAPS_FOLDER
from pipelines.scoring import MODEL_NAME

INTERVALS = (
    "image_auroc", "image_ap", "pixel_ap", "minus_reference", "minus_trivial",
    "pixel_minus_reference", "pixel_minus_trivial",
)  # fmt: skip
PLAIN = (
    "matched_auroc", "pixel_auroc", "aupro_03", "dice_at_threshold", "dice_oracle", "sensitivity",
    "specificity", "realised_fpr",
)  # fmt: skip
COSTS = (
    "training_seconds", "scoring_ms_per_image", "memory_gigabytes", "gpu_gigabytes", "parameters",
    "model_megabytes",
)  # fmt: skip


class Finished:
    """A finished training.

    Args:
        method: its name.
        seed: of everything random.
        folder: of its results.
    """

    def __init__(self, method: str, seed: int, folder: Path) -> None:
        self.method = method
        self.seed = seed
        self.folder = folder
        self.output = folder / "output"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of its ``metrics.json``."""
        found: dict[str, Any] = json.loads((self.output / "metrics.json").read_text())
        return found

    @cached_property
    def cost(self) -> dict[str, float]:
        """What it took, by `COSTS`."""
        found = json.loads((self.output / COST_NAME).read_text())
        found["scoring_ms_per_image"] = 1000 * found["scoring_seconds"] / max(1, found["images"])
        model = self.folder / "models" / MODEL_NAME
        found["model_megabytes"] = model.stat().st_size / 1e6
        return {name: float(found[name]) for name in COSTS}

    def judged(self) -> Judged:
        """Its scores of the test images."""
        rows: list[ScoreRow] = []
        pixels: PixelHistogram | None = None
        baselines: dict[str, PixelHistogram] = defaultdict(PixelHistogram)
        for path in sorted((self.output / "cases").glob("*.npz")):
            result = load_result(path)
            rows += result.rows
            pixels = pixels or PixelHistogram(result.pixels.edges)
            pixels.merge(result.pixels)
            for name, histogram in result.baseline_pixels.items():
                baselines[name].merge(histogram)
        return Judged(rows, pixels or PixelHistogram(), dict(baselines), self.metrics)


def write_comparison(
    folder: Path,
    finished: Sequence[Finished],
    reasons: Mapping[tuple[str, int], str],
    shown: Sequence[str],
    about: Mapping[str, Any],
    notes: Sequence[str],
) -> dict[str, float]:
    """Writes ``comparison.csv`` and ``comparison.html``.

    Args:
        folder: where to write.
        finished: the trainings.
        reasons: why others failed, by method and seed.
        shown: names of the cases whose maps are shown.
        about: what was run on what.
        notes: warnings that the results must carry.

    Returns:
        The main figures by name, for the tracking.
    """
    by_method: dict[str, list[Finished]] = defaultdict(list)
    for one in finished:
        by_method[one.method].append(one)
    judged = {name: [one.judged() for one in all_] for name, all_ in by_method.items()}
    compared = compare(judged)
    costs = {name: _mean_cost(trainings) for name, trainings in by_method.items()}
    _write_table(folder / "comparison.csv", compared, by_method, costs, reasons)
    first = {name: trainings[0] for name, trainings in by_method.items()}
    content = ComparisonContent(
        compared=compared,
        costs=costs,
        aurocs={n: [_auroc(one) for one in all_] for n, all_ in by_method.items()},
        failures=[(f"{name}, seed {seed}", why) for (name, seed), why in reasons.items()],
        shown=[_beside(case, first) for case in shown],
        about=about,
        notes=notes,
        words=words_for(next(iter(judged.values()))[0].rows),
    )
    write_comparison_page(folder, content)
    return {
        f"{method}/{name}": figures[name]["value"]
        for method, figures in compared["methods"].items()
        for name in ("image_auroc", "pixel_ap")
        if figures[name]["value"] is not None
    }


def _auroc(one: Finished) -> float | None:
    value = one.metrics.get("image_auroc", {}).get("value")
    return None if value is None else float(value)


def _mean_cost(trainings: Sequence[Finished]) -> dict[str, float]:
    return {name: float(np.mean([one.cost[name] for one in trainings])) for name in COSTS}


def _beside(case: str, methods: Mapping[str, Finished]) -> dict[str, Shown]:
    """A case by each method that kept it."""
    paths = {n: one.output / MAPS_FOLDER / f"{case}.npz" for n, one in methods.items()}
    return {name: Shown.load(path) for name, path in paths.items() if path.is_file()}


def _write_table(
    path: Path,
    compared: Mapping[str, Any],
    methods: Mapping[str, Sequence[Finished]],
    costs: Mapping[str, Mapping[str, float]],
    reasons: Mapping[tuple[str, int], str],
) -> None:
    rows: list[dict[str, Any]] = []
    for name, figures in compared["methods"].items():
        trainings = methods[name]
        seeds = " ".join(str(one.seed) for one in trainings)
        rows.append({"method": name, "seed": f"mean of {seeds}", **_cells(figures), **costs[name]})
        for one in trainings:
            rows.append({"method": name, "seed": one.seed, **_cells(one.metrics), **one.cost})
    for name, figures in compared["baselines"].items():
        rows.append({"method": f"trivial {name}", "seed": "", **_cells(figures)})
    for (name, seed), why in reasons.items():
        rows.append({"method": name, "seed": seed, "failed": why})
    names = ["method", "seed"]
    for name in INTERVALS:
        names += [name, f"{name}_low", f"{name}_high"]
    names += [name for name in EVENT_FIGURES if any(name in row for row in rows)]
    names += [*PLAIN, *COSTS, "failed"]
    write_csv(path, [{name: row.get(name, "") for name in names} for row in rows], names)


def _cells(figures: Mapping[str, Any]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name in (*INTERVALS, *EVENT_FIGURES, *PLAIN):
        figure = figures.get(name)
        if not isinstance(figure, Mapping) or figure.get("value") is None:
            continue
        cells[name] = round(figure["value"], 6)
        if name in INTERVALS and figure.get("ci95"):
            low, high = figure["ci95"]
            cells |= {f"{name}_low": round(low, 6), f"{name}_high": round(high, 6)}
    return cells

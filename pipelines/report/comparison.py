"""``comparison.html``: several methods on the same images, in one file complete in itself."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.common import counted, duration, plainly, replacing
from pipelines.metrics import EVENT_FIGURES, REFERENCE
from pipelines.outputs import Shown, save_beside
from pipelines.report.page import Picture, environment, picture_of
from pipelines.report.tables import COLUMN_NAMES, Cell, Table, difference, facts, tell
from pipelines.report.words import VOLUMES, Words

COMPARISON_NAME = "comparison.html"
DECISIONS = ("sensitivity", "specificity", "realised_fpr", "dice_at_threshold")


@dataclass(frozen=True)
class ComparisonContent:
    """Everything that the page shows.

    Attributes:
        compared: what `pipelines.metrics.compare` gives.
        costs: of each method, means over its trainings: seconds, GB, numbers of parameters.
        aurocs: of each method the AUROC of each training; None where it is not defined.
        failures: trainings that could not be finished, each with why.
        shown: slices, each by the methods that kept it.
        words: what things are called.
        about: what was run on what.
        notes: warnings that stand on top.
    """

    compared: Mapping[str, Any]
    costs: Mapping[str, Mapping[str, float]]
    aurocs: Mapping[str, Sequence[float | None]]
    failures: Sequence[tuple[str, str]]
    shown: Sequence[Mapping[str, Shown]]
    about: Mapping[str, Any]
    notes: Sequence[str]
    words: Words = VOLUMES


def write_comparison_page(folder: Path, content: ComparisonContent) -> Path:
    """Writes ``comparison.html``, which needs no other file and no network.

    Args:
        folder: where to write.
        content: what to show.

    Returns:
        The path of the page.
    """
    page = environment().get_template("comparison.html.j2").render(
        content=content,
        tables=comparison_tables(content),
        pictures=_pictures(content.shown, content.words),
        words=content.words,
        facts=facts(content.about),
        counted=counted,
    )  # fmt: skip
    path = folder / COMPARISON_NAME
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def comparison_tables(content: ComparisonContent) -> list[Table]:
    """Ranking, maps, events, decisions and cost; the method that ranks best first."""
    compared, words = content.compared, content.words
    trivial = plainly(compared["best_trivial"] or "the best trivial score")
    methods = _ranked(compared["methods"])
    baselines = {
        f"baseline {plainly(name)}": one for name, one in _ranked(compared["baselines"]).items()
    }
    every = methods | baselines
    matched = ["matched AUROC"] if words.matched else []
    tables = [
        Table(
            f"How well the scores rank {counted(compared['images'], f'test {words.image}')}; in "
            "brackets 95 % intervals over patients",
            [
                "method", "AUROC", "of each training", "average precision", *matched,
                f"AUROC minus {REFERENCE}'s", f"AUROC minus {trivial}'s",
            ],
            [
                (
                    name,
                    [
                        tell(one.get("image_auroc")),
                        _each(content.aurocs.get(name, ())),
                        tell(one.get("image_ap")),
                        *(_plain(one.get("matched_auroc")) for _ in matched),
                        difference(one.get("minus_reference")),
                        difference(one.get("minus_trivial")),
                    ],
                )
                for name, one in every.items()
            ],
        )
    ]  # fmt: skip
    mapped = {n: one for n, one in every.items() if _value(one.get("pixel_ap")) is not None}
    if mapped:
        columns = ("pixel_auroc", "aupro_03", "dice_oracle")
        tables.append(
            Table(
                f"Where the {words.lesion} is: {words.map}s against {words.masks}",
                [
                    "method",
                    words.of_points(COLUMN_NAMES["pixel_ap"]),
                    f"minus {REFERENCE}'s",
                    f"minus {trivial}'s",
                    *(words.of_points(COLUMN_NAMES[name]) for name in columns),
                ],
                [
                    (
                        name,
                        [
                            tell(one["pixel_ap"]),
                            difference(one.get("pixel_minus_reference")),
                            difference(one.get("pixel_minus_trivial")),
                            *(_plain(one.get(column)) for column in columns),
                        ],
                    )
                    for name, one in mapped.items()
                ],
            )  # fmt: skip
        )
    found = {n: one for n, one in every.items() if _value(one.get("event_recall")) is not None}
    if found:
        tables.append(
            Table(
                "Events at thresholds fixed on normal signals; a trivial trace at the lowest level "
                "that gives no more false alarms than the first training, chosen on these signals "
                "(oracle)",
                ["method", *(COLUMN_NAMES[name] for name in EVENT_FIGURES)],
                [(n, [_plain(one[name]) for name in EVENT_FIGURES]) for n, one in found.items()],
            )
        )
    tables.append(
        Table(
            f"Decisions at thresholds fixed on held-out normal {words.image}s",
            ["method", *(COLUMN_NAMES[name] for name in DECISIONS)],
            [
                (name, [_plain(one.get(column)) for column in DECISIONS])
                for name, one in methods.items()
            ],
        )
    )
    return [*tables, _cost_table(content.costs, list(methods), words)]


def _ranked(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Those of the highest AUROC first."""
    order = sorted(figures, key=lambda name: -(_value(figures[name]["image_auroc"]) or 0.0))
    return {name: figures[name] for name in order}


def _cost_table(
    costs: Mapping[str, Mapping[str, float]], methods: Sequence[str], words: Words
) -> Table:
    heads = [
        "method", "training", f"scoring, ms {words.an_image}", "memory, GiB", "GPU memory, GiB",
        "parameters", "model file, MB",
    ]  # fmt: skip
    rows = [
        (
            name,
            [
                Cell(duration(one["training_seconds"])),
                Cell(f"{one['scoring_ms_per_image']:.1f}"),
                Cell(f"{one['memory_gigabytes']:.2f}"),
                Cell(f"{one['gpu_gigabytes']:.2f}" if one["gpu_gigabytes"] else "–"),
                Cell(f"{one['parameters'] / 1e6:.2f} million"),
                Cell(f"{one['model_megabytes']:.1f}"),
            ],
        )
        for name in methods
        for one in (costs[name],)
    ]
    return Table("What a training cost, reading and writing included in scoring", heads, rows)


def _value(figure: Any) -> float | None:
    return figure.get("value") if isinstance(figure, Mapping) else None


def _plain(figure: Any) -> Cell:
    """A figure without its remark: means of trainings never have an interval."""
    return Cell(tell(figure).text)


def _each(values: Sequence[float | None]) -> Cell:
    return Cell(", ".join("–" if one is None else f"{one:.3f}" for one in values) or "–")


def _pictures(shown: Sequence[Mapping[str, Shown]], words: Words) -> list[Picture]:
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for number, methods in enumerate(filter(None, shown)):
            one = next(iter(methods.values()))
            title = (
                f"{words.part.capitalize()} {one.index} of {one.case}" if one.index else one.case
            )
            drawn = Path(temporary) / f"{number}.png"
            save_beside(drawn, methods)
            told = f"Input and anomaly {words.map}s of {title} by {', '.join(methods)}."
            found.append(picture_of(drawn, told, title, wide=True))
    return found

"""The report's tables: figures beside the baselines', rows, and what was run on what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from networks import part_column
from pipelines.common import counted, plainly
from pipelines.metrics import EVENT_FIGURES, told_figure, too_few
from pipelines.report.words import Words

MOST_ROWS = 500
"""Patients that the page shows."""

LONG = 6
"""Entries from which a mapping is folded away."""

COLUMN_NAMES = {
    "image_auroc": "AUROC",
    "matched_auroc": "matched AUROC",
    "image_ap": "average precision",
    "difference": "ours minus it, AUROC",
    "matched_difference": "ours minus it, matched AUROC",
    "pixel_ap": "pixel average precision",
    "pixel_auroc": "pixel AUROC",
    "aupro_03": "AUPRO up to 30 % false positives",
    "dice_at_threshold": "Dice at the fixed threshold",
    "dice_oracle": "best Dice (oracle)",
    "f1": "F1",
    "f1_oracle": "best F1 (oracle)",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "realised_fpr": "normals flagged, each patient once",
    "event_recall": "event recall",
    "event_precision": "event precision",
    "false_alarms": "false alarms in 1,000 samples",
    "range_recall": "range recall",
    "range_precision": "range precision",
    "n_normal": "normal",
    "n_anomalous": "anomalous",
}
RANKING = ("image_auroc", "matched_auroc", "image_ap")
DIFFERENCES = ("difference", "matched_difference")
DECISIONS = ("sensitivity", "specificity", "realised_fpr", "accuracy", "f1", "f1_oracle")
PIXELS = ("pixel_ap", "pixel_auroc", "aupro_03", "dice_at_threshold", "dice_oracle")
VOLUMES = ("image_auroc", "image_ap", "sensitivity", "specificity", "realised_fpr", "f1")
_OF_A_PATIENT = {"image_auroc": "AUROC", "dice_at_threshold": "Dice"}


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        remark: a few words below it.
    """

    text: str
    remark: str = ""


@dataclass(frozen=True)
class Table:
    """A table as the page shows it.

    Attributes:
        caption: what it is about.
        columns: heads of its columns, the first one that of the rows' names.
        rows: the name of each row with its cells.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def tell(figure: Any) -> Cell:
    """A figure, see `Figure.as_dict`, with its interval, or with why it is none."""
    if not isinstance(figure, Mapping) or figure.get("value") is None:
        return Cell("–")
    remark = figure.get("note") or ("no interval" if figure.get("ci95") is None else "")
    return Cell(told_figure({**figure, "note": ""}), remark)


def difference(figure: Any) -> Cell:
    """A paired difference, and whether its interval leaves zero out."""
    cell = tell(figure)
    interval = figure.get("ci95") if isinstance(figure, Mapping) else None
    if interval is None or cell.text == "–":
        return cell
    told = f"{figure['value']:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"
    if interval[0] > 0:
        return Cell(told, "better than it")
    return Cell(told, "worse than it" if interval[1] < 0 else "undecided")


def figure_tables(metrics: Mapping[str, Any], words: Words) -> list[Table]:
    """The tables of ``metrics.json``, those for which there is something."""
    decisions = f"Decisions at the threshold fixed on normal {words.image}s"
    whole = f"Whole {words.whole}s: the most anomalous {words.part}s decide"
    tables = [
        _ranking_table(metrics, words),
        _single(metrics, DECISIONS, decisions),
        _pixel_table(metrics, words),
        _event_table(metrics),
        _single(metrics.get("volumes") or {}, VOLUMES, whole),
    ]
    return [table for table in tables if table is not None]


def patient_table(metrics: Mapping[str, Any], words: Words) -> Table | None:
    """Figures of each patient, numbered, the worst first; names stay out of the page."""
    patients = list((metrics.get("patients") or {}).values())
    if not patients:
        return None
    patients.sort(key=lambda one: (one["image_auroc"] is None, one["image_auroc"] or 0.0))
    names = ["n_normal", "n_anomalous", "flagged", *_of_any(patients, _OF_A_PATIENT)]
    rows = [
        (str(number), [Cell(_plain(one[name])) for name in names])
        for number, one in enumerate(patients[:MOST_ROWS], start=1)
    ]
    heads = ["patient", f"normal {words.image}s", f"anomalous {words.image}s", "flagged"]
    heads += [_OF_A_PATIENT[name] for name in names[3:]]
    order = "the lowest AUROC first, " if "image_auroc" in names else ""
    return Table(f"Patients, {order}numbered anew", heads, rows)


def _ranking_table(metrics: Mapping[str, Any], words: Words) -> Table | None:
    if not _known(metrics, RANKING):
        return None
    ranking = [name for name in RANKING if words.matched or name != "matched_auroc"]
    baselines = metrics.get("baselines") or {}
    compared = [name for name in DIFFERENCES if any(name in one for one in baselines.values())]
    named = {"AE-Flow (score)": metrics}
    named |= {f"{_part(name)} alone": one for name, one in (metrics.get("parts") or {}).items()}
    named |= {f"baseline {plainly(name)}": one for name, one in baselines.items()}
    rows = [
        (
            name,
            [tell(one.get(column)) for column in ranking]
            + [difference(one.get(column)) for column in compared],
        )
        for name, one in named.items()
    ]
    heads = ["ranking by", *(COLUMN_NAMES[name] for name in (*ranking, *compared))]
    return Table(
        f"How well the score ranks, beside trivial scores of the same {words.image}s; "
        "in brackets 95 % intervals over patients",
        heads,
        rows,
    )


def _pixel_table(metrics: Mapping[str, Any], words: Words) -> Table | None:
    told = f"Where the {words.lesion} is: {words.map}s against {words.masks}"
    heads = [words.of_points(COLUMN_NAMES[name]) for name in PIXELS]
    return _beside(metrics, PIXELS, words.map, told, heads)


def _event_table(metrics: Mapping[str, Any]) -> Table | None:
    told = (
        "Events: ours at the threshold fixed on normal signals; a trivial trace at the lowest "
        "level that gives no more false alarms than ours, chosen on these very signals (oracle)"
    )
    return _beside(
        metrics, EVENT_FIGURES, "trace", told, [COLUMN_NAMES[name] for name in EVENT_FIGURES]
    )


def _beside(
    metrics: Mapping[str, Any], names: Sequence[str], of: str, caption: str, heads: Sequence[str]
) -> Table | None:
    """Figures of our maps beside those of the trivial scores that have one."""
    if not _known(metrics, names):
        return None
    rows = [(f"AE-Flow ({of})", [tell(metrics.get(name)) for name in names])]
    for baseline, trivial in (metrics.get("baselines") or {}).items():
        if _known(trivial, names):
            rows.append(
                (f"baseline {plainly(baseline)}", [tell(trivial.get(name)) for name in names])
            )
    return Table(caption, [of, *heads], rows)


def _single(figures: Mapping[str, Any], names: Sequence[str], caption: str) -> Table | None:
    known = _known(figures, names)
    if not known:
        return None
    heads = ["", *(COLUMN_NAMES[name] for name in known)]
    return Table(caption, heads, [("AE-Flow", [tell(figures[name]) for name in known])])


def _known(figures: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [name for name in names if (figures.get(name) or {}).get("value") is not None]


def _part(column: str) -> str:
    return column.removesuffix(part_column(""))


def stability_table(stability: Sequence[Mapping[str, Any]], words: Words) -> Table | None:
    """What mild changes do to normal images, change by change."""
    if not stability:
        return None
    shifts = [name for name in stability[0] if name not in ("change", "flagged", "changed")]
    rows = [
        (
            str(one["change"]),
            [Cell(f"{100 * one[name]:.1f} %") for name in ("flagged", "changed")]
            + [Cell(f"{one[name]:+.2f}") for name in shifts],
        )
        for one in stability
    ]
    heads = ["change", "flagged", "decision changed", *map(_part, shifts)]
    caption = f"Held-out normal {words.image}s, changed; shifts in standard deviations"
    return Table(f"{caption}{_steadiness(stability, shifts)}", heads, rows)


def _steadiness(stability: Sequence[Mapping[str, Any]], shifts: Sequence[str]) -> str:
    """Which part moves least and which most: a reason to weigh it more or less."""
    parts = [name for name in shifts if _part(name) != name]
    moved = {_part(name): max(abs(one[name]) for one in stability) for name in parts}
    if len(moved) < 2:
        return ""
    least, most = min(moved, key=moved.__getitem__), max(moved, key=moved.__getitem__)
    return (
        f". Steadiest part: {least} ({moved[least]:.2f}); least steady: {most} ({moved[most]:.2f})"
    )


def synthetic_table(found: Mapping[str, Any] | None, words: Words) -> Table | None:
    """How many synthetic anomalies are flagged, kind by kind and size by size."""
    if not found:
        return None
    cells: dict[str, list[Cell]] = {}
    for row in found["rows"]:
        told = Cell("–", "none shows")
        if row["n"]:
            told = Cell(f"{100 * row['flagged']:.0f} %", f"AUROC {row['auroc']:.2f}, n {row['n']}")
        cells.setdefault(row["kind"], []).append(told)
    practised = {kind: Cell("yes" if kind in found["practised"] else "no") for kind in cells}
    sizes = [
        f"{name}, {low} to {high} {words.px}" for name, (low, high) in found["diameters"].items()
    ]
    of = f"{counted(found['images'], f'held-out normal {words.image}')} of the calibration"
    few = too_few(found["patients"])
    without = f"{100 * found['flagged_without']:.0f} % of them are{f' ({few})' if few else ''}"
    return Table(
        f"Share flagged of {of} with one synthetic anomaly each, by its kind and {words.size}; "
        f"without it {without}. AUROC: against the same {words.image}s without it; n: "
        f"{words.image}s in which it shows",
        ["kind", *sizes, "practised in pre-training"],
        [(kind, [*own, practised[kind]]) for kind, own in cells.items()],
    )


def _of_any(patients: Sequence[Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """Those of the figures that some patient has."""
    return [name for name in names if any(one[name] is not None for one in patients)]


def _plain(value: float | None) -> str:
    if isinstance(value, int):
        return str(value)
    return "–" if value is None else f"{value:.3f}"


@dataclass(frozen=True)
class Fact:
    """One line of what was run on what.

    Attributes:
        name: in plain words.
        value: what it was.
        more: a longer list of names and values, folded away.
    """

    name: str
    value: str
    more: Sequence[tuple[str, str]] = ()


def facts(about: Mapping[str, Any]) -> list[Fact]:
    """What was run on what, line by line."""
    return [_fact(plainly(str(name)), value) for name, value in about.items()]


def _fact(name: str, value: Any) -> Fact:
    if isinstance(value, Mapping):
        lines = [(plainly(str(key)), _words(one)) for key, one in value.items()]
        if len(lines) >= LONG:
            return Fact(name, f"{len(lines)} values", lines)
        return Fact(name, ", ".join(f"{key} {one}" for key, one in lines))
    return Fact(name, _words(value))


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "not set" if value is None else str(value)

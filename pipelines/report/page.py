"""``report.html``: one file that every run ends with, complete in itself."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from pipelines.common import counted, plainly, replacing, writable_folder
from pipelines.metrics import (
    Figure,
    ScoreRow,
    class_patients,
    missing_for_evaluation,
    told_figure,
    too_few,
)
from pipelines.outputs import (
    MAP_COLOURS,
    MAP_RANGE,
    SHOWN_FROM,
    Example,
    save_curves,
    save_histogram,
    save_panels,
    save_regions,
)
from pipelines.report.content import ReportContent
from pipelines.report.curves import Judged
from pipelines.report.drawings import draw_calibration, draw_roc, draw_slices
from pipelines.report.reading import reading_list
from pipelines.report.tables import (
    difference,
    facts,
    figure_tables,
    patient_table,
    stability_table,
    synthetic_table,
    tell,
)
from pipelines.report.volumes import MAP_LEVELS, MAX_VOLUMES, viewer_entry
from pipelines.report.words import Words, words_for

REPORT_NAME = "report.html"
HERE = Path(__file__).parent
GROUPS = {
    "detected": "Detected: anomalous and flagged, the highest scores",
    "missed": "Worst misses: anomalous and not flagged, the lowest scores",
    "false alarm": "Worst false alarms: normal and flagged, the highest scores",
    "scored": "Highest scores among images of unknown label",
    "held-out normal": "Held-out normal images of the calibration, the highest scores",
}


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Attributes:
        uri: the PNG as a data URI.
        alt: what is on it, for those who do not see it.
        title: its heading, if it has one of its own.
        wide: whether a phone scrolls it sideways rather than shrinking it.
    """

    uri: str
    alt: str
    title: str = ""
    wide: bool = False


def write_report(folder: Path, content: ReportContent) -> Path:
    """Writes ``report.html`` and the pictures beside it.

    The page needs no other file and no network. Beside it lie ``scores.png``, ``roc.png``,
    ``calibration.png``, ``curves.png``, ``regions.png`` and ``examples.png``, as far as there is
    something to draw.

    Args:
        folder: where to write.
        content: what to show.

    Returns:
        The path of ``report.html``.

    Raises:
        InputError: when the folder cannot be written.
    """
    writable_folder(folder)
    judged = judged_images(content.rows)
    metrics, measured = content.metrics or {}, _measured_fpr(content, judged)
    words = words_for(content.rows, content.volumetric)
    page = environment().get_template("report.html.j2").render(
        content=content,
        words=words,
        facts=facts(content.about),
        headline=_headline(content, words),
        tables=figure_tables(metrics, words),
        patients=patient_table(metrics, words),
        reading=reading_list(content, words.part),
        shown_from=SHOWN_FROM,
        histogram=_histogram(folder / "scores.png", content, words),
        roc=_roc(folder / "roc.png", content, judged, words),
        calibration=_calibration(folder / "calibration.png", content, judged, measured),
        measured=measured,
        counted=counted,
        missing=missing_for_evaluation(metrics, words.image) if metrics else [],
        synthetic=synthetic_table(metrics.get("synthetic_detection"), words),
        stability=stability_table(content.stability, words),
        curves=_curves(folder / "curves.png", content),
        regions=_regions(folder / "regions.png", content),
        panels=_panels(folder / "examples.png", content, words),
        viewer=_viewer(content),
        glossary=_glossary(content),
        script=_script,
    )  # fmt: skip
    path = folder / REPORT_NAME
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def judged_images(rows: Sequence[ScoreRow]) -> Judged:
    """The rows of single images whose label and score are known."""
    known = [
        row for row in rows if row.label is not None and not row.is_whole and np.isfinite(row.score)
    ]
    told = known[0].baselines if known else ()
    names = [name for name in told if all(name in row.baselines for row in known)]
    return Judged(
        labels=np.array([row.label for row in known], dtype=np.int64),
        scores=np.array([row.score for row in known], dtype=np.float64),
        patients=np.array([row.patient for row in known]),
        baselines={n: np.array([row.baselines[n] for row in known]) for n in names},
    )


def environment() -> Environment:
    """Where the templates of the pages lie; what they are given is escaped."""
    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _script(name: str) -> str:
    """A script, safe inside a script element."""
    text = (HERE / name).read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def picture_of(path: Path, alt: str, title: str = "", wide: bool = False) -> Picture:
    """A PNG file as a picture inside the page."""
    encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    return Picture(f"data:image/png;base64,{encoded}", alt, title, wide)


def _histogram(path: Path, content: ReportContent, words: Words) -> Picture | None:
    groups: dict[int | None, list[float]] = {0: [], 1: [], None: []}
    for row in content.rows:
        if not row.is_whole and np.isfinite(row.score):
            groups[row.label].append(row.score)
    told = dict(zip(("normal", "anomalous", "unlabelled"), groups.values(), strict=True))
    told["held-out normal"] = list(content.held_out)
    if not any(told.values()):
        return None
    save_histogram(
        path,
        groups[0],
        groups[1],
        content.threshold,
        unlabelled=groups[None],
        held_out=content.held_out,
        reference=() if content.held_out else content.quantiles,
        of=f"{words.image}s",
    )
    listed = "; ".join(
        f"{counted(len(scores), f'{name} {words.image}')}, median score {np.median(scores):.2f}"
        for name, scores in told.items()
        if scores
    )
    alt = f"Histogram of scores: {listed}; threshold {content.threshold:.2f}."
    return picture_of(path, alt, "Scores", wide=True)


def _roc(path: Path, content: ReportContent, judged: Judged, words: Words) -> Picture | None:
    if not judged.both:
        return None
    baseline = words.preferred(judged.baselines)
    draw_roc(path, judged, content.threshold, baseline)
    area = tell((content.metrics or {}).get("image_auroc"))
    beside = f" beside the trivial score {baseline}" if baseline else ""
    bands = "" if judged.note else ", with 95 % bands over patients"
    alt = (
        f"ROC and precision-recall curve of the score{beside}{bands}. "
        f"AUROC {' '.join(filter(None, (area.text, area.remark)))}."
    )
    return picture_of(path, alt, "ROC and precision-recall", wide=True)


def _measured_fpr(content: ReportContent, judged: Judged) -> Figure | None:
    normal = judged.scores[judged.labels == 0]
    if not normal.size:
        return None
    patients, _ = class_patients(judged.labels, judged.patients)
    return Figure(float((normal > content.threshold).mean()), note=too_few(patients))


def _calibration(
    path: Path, content: ReportContent, judged: Judged, measured: Figure | None
) -> Picture | None:
    if measured is None or measured.value is None or not _usable(content.quantiles):
        return None
    draw_calibration(path, judged, content.quantiles, content.target_fpr, measured.value)
    alt = (
        "False-positive rate measured on test normals over the nominal rate. At the chosen "
        f"threshold {told_figure(measured.as_dict())} were measured and {content.target_fpr:.3f} "
        "were promised."
    )
    return picture_of(path, alt, "Calibration", wide=True)


def _usable(quantiles: NDArray[np.float64]) -> bool:
    return bool(quantiles.size and np.isfinite(quantiles).all())


def _curves(path: Path, content: ReportContent) -> Picture | None:
    if not content.history:
        return None
    save_curves(path, content.history)
    last = ", ".join(
        f"{name.replace('_', ' ')} {value:.3f}"
        for name, value in content.history[-1].items()
        if name in ("train_loss", "val_loss")
    )
    epochs = counted(len(content.history), "epoch")
    alt = f"Loss and its terms over {epochs}. Last epoch: {last or 'no loss'}."
    return picture_of(path, alt, "Loss curves", wide=True)


def _regions(path: Path, content: ReportContent) -> Picture | None:
    if not content.regions:
        return None
    save_regions(path, content.regions)
    count = counted(len(content.regions), "normal training image")
    alt = f"{count} with the outline of the region."
    return picture_of(path, alt, wide=True)


def _panels(path: Path, content: ReportContent, words: Words) -> list[Picture]:
    """Panels by kind; all of them together go to `path`."""
    note, threshold = " ".join(n for n in content.notes if "phantom" in n), content.pixel_threshold
    save_panels(path, content.examples, threshold, note)
    kinds = list(dict.fromkeys(str(example.kind) for example in content.examples))
    found: list[Picture] = []
    with tempfile.TemporaryDirectory() as temporary:
        for kind in sorted(kinds, key=_place):
            own = [example for example in content.examples if example.kind == kind]
            drawn = Path(temporary) / f"{len(found)}.png"
            save_panels(drawn, own, threshold)
            title = GROUPS.get(kind, kind.capitalize()).replace("image", words.image)
            found.append(picture_of(drawn, _told(own, words), title, wide=True))
    return found


def _place(kind: str) -> int:
    known = list(GROUPS)
    return known.index(kind) if kind in known else len(known)


def _told(examples: Sequence[Example], words: Words) -> str:
    rows = "; ".join(
        f"{e.case}{f', {words.part} {e.index}' if e.index else ''}, score {e.score:.2f}"
        for e in examples
    )
    if examples[0].of_signal:
        return f"Signal, reconstruction, anomaly trace, true events and gaps around: {rows}."
    return f"Input, reconstruction, residual, part maps, fused map and lesion mask of: {rows}."


def _viewer(content: ReportContent) -> dict[str, Any] | None:
    if not content.volumes:
        return None
    shown = content.volumes[:MAX_VOLUMES]
    stills = []
    with tempfile.TemporaryDirectory() as temporary:
        for number, volume in enumerate(shown):
            drawn = Path(temporary) / f"{number}.png"
            draw_slices(drawn, volume)
            alt = f"Axial slices of {volume.name}, below with the anomaly map. {volume.caption}"
            stills.append(picture_of(drawn, alt, volume.name, wide=True))
    colours = MAP_COLOURS(np.linspace(0, 1, MAP_LEVELS + 1))
    return {
        "volumes": [viewer_entry(volume, content.threshold) for volume in shown],
        "stills": stills,
        "scale": {
            "colours": np.round(255 * colours[:, :3]).astype(int).tolist(),
            "levels": MAP_LEVELS,
            "highest": MAP_RANGE[1],
        },
        "gradient": ", ".join(matplotlib.colors.to_hex(colour) for colour in colours[::10]),
        "left_out": len(content.volumes) - len(shown),
    }


def _headline(content: ReportContent, words: Words) -> list[tuple[str, str, str]]:
    """The few numbers on top: name, number, remark."""
    single = [row for row in content.rows if not row.is_whole]
    flagged = sum(bool(row.flagged) for row in single)
    cards = [(f"{words.part}s scored", str(len(single)), f"{flagged} flagged")]
    volumes = [row for row in content.rows if row.is_whole]
    if volumes:
        above = sum(bool(row.flagged) for row in volumes)
        cards.append((f"{words.whole}s scored", str(len(volumes)), f"{above} flagged"))
    metrics = content.metrics or {}
    for name, title in (("image_auroc", "AUROC"), ("sensitivity", "sensitivity"),
                        ("specificity", "specificity")):  # fmt: skip
        if name in metrics and metrics[name]["value"] is not None:
            told = tell(metrics[name])
            number, _, interval = told.text.partition(" ")
            cards.append((title, number, f"95 % {interval}" if interval else told.remark))
    baselines = metrics.get("baselines") or {}
    preferred = words.preferred(baselines)
    trivial = baselines.get(preferred)
    if preferred and trivial and trivial["difference"]["value"] is not None:
        told = difference(trivial["difference"])
        number, _, interval = told.text.partition(" ")
        cards.append((f"AUROC minus {plainly(preferred)}'s", number, f"{interval} {told.remark}"))
    if content.failures:
        cards.append(("failed", str(len(content.failures)), "see below"))
    return cards


def _glossary(content: ReportContent) -> dict[str, float]:
    """Numbers of this model that make its glossary concrete."""
    example = 3.2
    beyond = float((content.quantiles >= example).mean()) if content.quantiles.size else 0.0
    return {"score": example, "share": beyond}

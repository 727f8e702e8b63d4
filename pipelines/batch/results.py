"""What is kept of a scored case: its rows, its pixels' histograms and telling slices."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.common import replacing
from pipelines.data import CaseSample, SignalSample
from pipelines.metrics import (
    LEVELS,
    OURS,
    EventCounts,
    PixelHistogram,
    ScoreRow,
    count_events,
    default_edges,
)
from pipelines.outputs import Example, thumbnail
from pipelines.scoring import ScoredCase, case_score

FACTS, PIXELS = "facts.json", "pixels"
"""Names in a stored result of all but arrays, and of the histogram of the anomaly map."""

BASELINE = "baseline "
"""Before the name of a trivial score, in a stored result."""

EVENT_TOLERANCE = 8
"""An alarm that lies within such a part of a window beside an event belongs to it."""


@dataclass
class CaseResult:
    """The results of one case, small enough to be kept for every case.

    Attributes:
        rows: rows of ``scores.csv``: one per slice and, for a volume, one for the whole of it.
        pixels: histogram of the anomaly map; of no patient where no mask is known.
        baseline_pixels: likewise of the maps of the trivial scores, by name.
        thumbnail: a JPEG of the case.
        examples: slices that may be shown.
        events: of a signal with marks, the counts of its events, see `summarize`.
        threshold: the one that is an edge of ``pixels``.
    """

    rows: list[ScoreRow]
    pixels: PixelHistogram
    baseline_pixels: dict[str, PixelHistogram]
    thumbnail: bytes
    examples: list[Example] = field(default_factory=list)
    events: dict[str, list[EventCounts]] = field(default_factory=dict)
    threshold: float = math.inf


def case_result(
    scored: ScoredCase, pixel_threshold: float, examples: Sequence[Example] = ()
) -> CaseResult:
    """Sums up a scored case, with the examples of it that the caller chose."""
    pixels = PixelHistogram(default_edges(pixel_threshold))
    _add_pixels(pixels, scored, scored.anomaly_map)
    trivial: dict[str, PixelHistogram] = {}
    for name, maps in baseline_maps(scored).items():
        trivial[name] = PixelHistogram()
        _add_pixels(trivial[name], scored, maps)
    return CaseResult(
        list(case_rows(scored)),
        pixels,
        trivial,
        thumbnail(scored),
        list(examples),
        _events(scored, pixel_threshold),
        pixel_threshold,
    )


def case_rows(scored: ScoredCase) -> Iterator[ScoreRow]:
    """Rows of ``scores.csv`` for one case: its slices or windows, then all; or the picture."""
    sample, case = scored.sample, scored.sample.case
    (part, whole_level), times = sample.levels, sample.times
    trivial, whole = baseline_scores(scored), scored.case_score
    score_std = scored.scores.get("score_std")
    scope: dict[str, Any] = {"in_scope": whole.in_scope, "out_of_scope": whole.out_of_scope}
    for position, (index, label) in enumerate(zip(sample.indices, sample.labels, strict=True)):
        yield ScoreRow(
            case=case.name,
            patient=case.patient,
            level=part,
            slice=int(index),
            label=None if label < 0 else int(label),
            score=float(scored.scores["score"][position]),
            parts={name: float(values[position]) for name, values in scored.parts.items()},
            percentile=float(scored.scores["percentile"][position]),
            p_value=float(scored.scores["p_value"][position]),
            flagged=bool(scored.flagged[position]),
            score_std=None if score_std is None else float(score_std[position]),
            baselines={name: float(values[position]) for name, values in trivial.items()},
            time=times[position],
            **(scope if whole_level is None else {}),
        )
    if whole_level is not None:
        yield ScoreRow(
            case=case.name,
            patient=case.patient,
            level=whole_level,
            slice=None,
            label=volume_label(sample),
            score=whole.score,
            parts=whole.parts,
            percentile=whole.percentile,
            p_value=whole.p_value,
            flagged=whole.flagged,
            score_std=whole.score_std,
            baselines={name: case_score(values) for name, values in trivial.items()},
            **scope,
        )


def baseline_scores(scored: ScoredCase) -> dict[str, NDArray[np.float64]]:
    """The trivial scores of the slices, ``(K,)`` each; none outside evaluations."""
    if scored.sample.baselines is None:
        return {}
    own = {name: scored.parts[part.name] for name, part in scored.baselines.items()}
    return {**scored.sample.baselines.scores, **own}


def baseline_maps(scored: ScoredCase) -> dict[str, NDArray[np.float32]]:
    """The maps of those trivial scores that have one, ``(K, h, w)`` each."""
    trivial = scored.sample.baselines
    if trivial is None or not trivial.maps:
        return {}
    own = {name: scored.part_map(part) for name, part in scored.baselines.items() if part.maps}
    return {**trivial.maps, **own}


def volume_label(sample: CaseSample) -> int | None:
    """1 for a volume with an anomalous slice, 0 for one known to be normal, else None."""
    if sample.case.label is not None:
        return sample.case.label
    if sample.masks is None:
        return None
    if bool((sample.labels == 1).any()):
        return 1
    return None if bool(sample.masks.any()) else 0


def _add_pixels(histogram: PixelHistogram, scored: ScoredCase, maps: NDArray[np.float32]) -> None:
    judged = scored.sample.judged(maps)
    if judged is not None:
        histogram.add(scored.sample.case.patient, *judged)


def _events(scored: ScoredCase, pixel_threshold: float) -> dict[str, list[EventCounts]]:
    """Counts of a signal's events: ours at our threshold, trivial traces' at many levels."""
    sample = scored.sample
    if not isinstance(sample, SignalSample) or sample.marked is None:
        return {}
    maps = {OURS: scored.anomaly_map, **baseline_maps(scored)}
    found: dict[str, list[EventCounts]] = {}
    for name, windows in maps.items():
        trace = sample.trace(windows)
        found[name] = [
            count_events(
                sample.case.patient,
                trace,
                sample.marked,
                level,
                seen=np.isfinite(trace),
                tolerance=sample.geometry.window // EVENT_TOLERANCE,
            )
            for level in ((pixel_threshold,) if name == OURS else LEVELS)
        ]
    return found


def save_result(path: Path, result: CaseResult, stamp: str, written: Iterable[Path] = ()) -> None:
    """Writes a result, atomically.

    Args:
        path: an ``.npz`` file in a subfolder of the output folder.
        result: what to write.
        stamp: says of what model and which files it is the result.
        written: the files of the output folder that belong to it.
    """
    trivial = {f"{BASELINE}{name}": value for name, value in result.baseline_pixels.items()}
    histograms = {PIXELS: result.pixels, **trivial}
    facts = {
        "stamp": stamp,
        "files": {str(file.relative_to(path.parent.parent)): _digest(file) for file in written},
        "rows": [vars(row) for row in result.rows],
        "thumbnail": base64.b64encode(result.thumbnail).decode(),
        "examples": [_facts(one) for one in result.examples],
        "events": {name: [*map(vars, counts)] for name, counts in result.events.items()},
        "patients": {name: histogram.patients for name, histogram in histograms.items()},
        "threshold": result.threshold,
    }
    arrays = {name: histogram.state_dict()["counts"] for name, histogram in histograms.items()}
    for number, example in enumerate(result.examples):
        arrays |= {f"{number}/{key}": value for key, value in _pictures(example).items()}
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):  # np.savez_compressed deflates a little more and takes twice as long
        archive.writestr(FACTS, json.dumps(facts))
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value)


def is_whole(path: Path, stamp: str) -> bool:
    """Whether a result with this stamp and all files that belong to it are there, undamaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(archive.read(FACTS))
            return (
                facts["stamp"] == stamp
                and archive.testzip() is None
                and all(
                    _digest(path.parent.parent / file) == digest
                    for file, digest in facts["files"].items()
                )
            )
    except Exception:  # missing, cut short or foreign: the case is simply scored again
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_result(path: Path) -> CaseResult:
    """Reads what `save_result` wrote."""
    with np.load(path) as stored:
        facts = json.loads(stored[FACTS])
        threshold = facts["threshold"]
        histograms = {
            name: PixelHistogram.from_state({
                "edges": default_edges(threshold if name == PIXELS else None),
                "patients": patients,
                "counts": stored[name],
            })
            for name, patients in facts["patients"].items()
        }  # fmt: skip
        return CaseResult(
            rows=[ScoreRow(**row) for row in facts["rows"]],
            pixels=histograms.pop(PIXELS),
            baseline_pixels={name.removeprefix(BASELINE): h for name, h in histograms.items()},
            thumbnail=base64.b64decode(facts["thumbnail"]),
            examples=[
                _example(fact, _group(stored, str(n))) for n, fact in enumerate(facts["examples"])
            ],
            events={
                name: [EventCounts(**one) for one in counts]
                for name, counts in facts["events"].items()
            },
            threshold=threshold,
        )


def _group(stored: Mapping[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    return {key.split("/", 1)[1]: stored[key] for key in stored if key.startswith(f"{name}/")}


def _facts(example: Example) -> dict[str, Any]:
    return {name: getattr(example, name) for name in ("kind", "case", "index", "score", "window")}


def _pictures(example: Example) -> dict[str, NDArray[Any]]:
    exact = np.float32 if example.of_signal else np.float16  # signals have units of their own
    pictures: dict[str, NDArray[Any]] = {"image": example.image.astype(exact)}
    if example.reconstruction is not None:
        # Far from what it has seen, a flow may lead the decoder out of the range of float16.
        most = np.finfo(exact).max
        pictures["reconstruction"] = example.reconstruction.clip(-most, most).astype(exact)
    pictures |= {f"map_{name}": value.astype(np.float16) for name, value in example.maps.items()}
    if example.mask is not None:
        pictures["mask"] = example.mask
    if example.time is not None:
        pictures["time"] = example.time
    return pictures


def _example(facts: Mapping[str, Any], pictures: Mapping[str, NDArray[Any]]) -> Example:
    maps = {
        name.removeprefix("map_"): value.astype(np.float32)
        for name, value in pictures.items()
        if name.startswith("map_")
    }
    restored = pictures.get("reconstruction")
    return Example(
        **facts,
        image=pictures["image"].astype(np.float32),
        reconstruction=None if restored is None else restored.astype(np.float32),
        maps=maps,
        mask=pictures.get("mask"),
        time=pictures.get("time"),
    )

"""How well each part ranks the images of an evaluation, alone and fused.

    python -m benchmarks.parts <scores.csv> ...

A row per score and file: AUROC; AUROC over pairs matched in sharpness; and, of the fused score, the
share of normal and of anomalous images that is flagged.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.metrics import SHARPNESS_TOLERANCE, matched_auroc


class Ranked(NamedTuple):
    """How well a score ranks images.

    Attributes:
        score: name of its column.
        auroc: over all pairs of a normal and an anomalous image.
        matched: over those whose vertical differences are alike; None without any.
        pairs: number of the latter.
    """

    score: str
    auroc: float | None
    matched: float | None
    pairs: int


def ranked(scores: Path) -> list[Ranked]:
    """Reads ``scores.csv`` and ranks by every score in it, and by sharpness."""
    rows = _rows(scores)
    labels = np.array([int(row["label"]) for row in rows])
    vertical = -np.array([float(row["sharpness"]) for row in rows])
    columns = [n for n in rows[0] if n == "score" or n.endswith("_score")]
    found = []
    for name in (*columns, "sharpness"):
        judged = np.array([float(row[name]) for row in rows])
        plain, matched = (
            matched_auroc(
                labels, judged, key=vertical, tolerance=tolerance, relation="log_ratio",
                patients=np.arange(len(rows)), resamples=0,
            )
            for tolerance in (math.inf, SHARPNESS_TOLERANCE)
        )  # fmt: skip
        found.append(Ranked(name, plain.figure.value, matched.figure.value, matched.pairs))
    return found


def flagged(scores: Path) -> tuple[float, float]:
    """Shares of normal and of anomalous images that are flagged."""
    rows = _rows(scores)
    kinds = ([int(row["flagged"]) for row in rows if row["label"] == kind] for kind in "01")
    normal, anomalous = (float(np.mean(kind)) for kind in kinds)
    return normal, anomalous


def _rows(scores: Path) -> list[dict[str, str]]:
    with scores.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["label"] in ("0", "1")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("scores", type=Path, nargs="+")
    for path in parser.parse_args(arguments).scores:
        normal, anomalous = flagged(path)
        print(f"{path}: flagged {normal:.3f} of normal, {anomalous:.3f} of anomalous images")
        for row in ranked(path):
            told = ["none" if v is None else f"{v:.3f}" for v in (row.auroc, row.matched)]
            print(f"  {row.score:14} {told[0]}  matched {told[1]} ({row.pairs} pairs)")


if __name__ == "__main__":
    main()

"""Do errors carry more spread, and are p-values what they say? Read from an evaluation's scores.

``python -m benchmarks.certainty --scores <output_dir>/scores.csv --picture reliability.png`` takes
the images whose label is known. Of an ensemble it tells how well ``score_std`` ranks the
misclassified images before the others (AUROC), beside the closeness of the score to the threshold
and what the label app's ``most_uncertain`` makes of both; of any model, which share of the normal
images has a p-value of at most so much.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
LEAST_STD = 0.5
"""As in the label app's strategy."""

Values = NDArray[np.float64]


def read_scores(path: Path) -> dict[str, Values]:
    """The columns of the labelled images or slices, NaN where a cell is empty."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] and row["level"] != "volume"]
    wanted = [n for n in ("label", "score", "score_std", "flagged", "p_value") if n in rows[0]]
    return {n: np.array([float(row[n] or "nan") for row in rows]) for n in wanted}


def uncertainty(found: dict[str, Values]) -> dict[str, Values]:
    """What may rank the misclassified first, by its name; the larger, the less certain."""
    flagged = found["flagged"] > 0
    if flagged.all() or not flagged.any():
        raise SystemExit("scores: all images are flagged or none; no threshold can be told.")
    threshold = (found["score"][flagged].min() + found["score"][~flagged].max()) / 2
    distance = np.abs(found["score"] - threshold)
    ranked = {"closeness to the threshold": -distance}
    if "score_std" in found:
        std = found["score_std"]
        ranked |= {"score_std": std, "both": -distance / np.hypot(std, LEAST_STD)}
    return ranked


def errors_table(found: dict[str, Values]) -> list[str]:
    """The AUROC of each uncertainty for misclassified images: all, normal, anomalous."""
    wrong = (found["label"] > 0) != (found["flagged"] > 0)
    groups = {"all": np.ones_like(wrong), "normal": found["label"] == 0}
    groups["anomalous"] = ~groups["normal"]
    lines = [f"{wrong.sum()} of {len(wrong)} images are misclassified"]
    lines += [f"| AUROC for errors | {' | '.join(groups)} |", "|---|---|---|---|"]
    for name, value in uncertainty(found).items():
        told = " | ".join(_auroc(wrong[where], value[where]) for where in groups.values())
        lines.append(f"| {name} | {told} |")
    return lines


def _auroc(wrong: Any, value: Values) -> str:
    return f"{roc_auc_score(wrong, value):.3f}" if 0 < wrong.sum() < len(wrong) else "none"


def reliability(found: dict[str, Values]) -> list[tuple[float, float]]:
    """Per level the share of the normal images whose p-value is at most that."""
    normal = found["p_value"][found["label"] == 0]
    return [(level, float((normal <= level).mean())) for level in LEVELS]


def draw(path: Path, found: dict[str, Values]) -> None:
    """Draws the p-values of normal images against a uniform distribution."""
    normal = np.sort(found["p_value"][found["label"] == 0])
    figure, axis = plt.subplots(figsize=(4, 4), layout="constrained")
    axis.plot(normal, np.arange(1, len(normal) + 1) / len(normal), label="normal images")
    axis.plot([0, 1], [0, 1], "k--", linewidth=0.8, label="exact")
    axis.set(xlabel="p-value", ylabel="share with at most this p-value")
    axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--picture", type=Path, help="PNG file to draw")
    options = parser.parse_args(arguments)
    found = read_scores(options.scores)
    print("\n".join(errors_table(found)))
    print("| p-value at most | share of normal images |\n|---|---|")
    for level, share in reliability(found):
        print(f"| {level:g} | {share:.3f} |")
    if options.picture:
        draw(options.picture, found)


if __name__ == "__main__":
    main()

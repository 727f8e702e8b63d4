"""What an evaluation's figures amount to, in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pipelines.common import counted, plainly
from pipelines.metrics.figure import LEAST_PATIENTS, told_figure, too_few

CLASSES = ("normal", "anomalous")

Kind = Literal["usable", "not surely better", "weaker", "below chance", "not to be judged"]


class Verdict(NamedTuple):
    """A judgement of a model by its test images.

    Attributes:
        kind: which.
        text: the judgement with its reason.
        advice: what to do next.
    """

    kind: Kind
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.text} {self.advice}".strip()


def verdict(metrics: Mapping[str, Any], image: str = "image") -> Verdict:
    """Judges the figures of `summarize`, with ``target_fpr`` beside them.

    Args:
        metrics: the figures.
        image: what is judged, in a word.
    """
    judged = _unjudged(metrics, image)
    if judged is not None:
        return judged
    ours = metrics["image_auroc"]
    told = f"AUROC {told_figure(ours)}"
    if "matched_auroc" in metrics and metrics["matched_auroc"]["value"] is not None:
        told += f", matched {told_figure({**metrics['matched_auroc'], 'ci95': None})}"
    if ours["value"] < 0.5:
        return Verdict(
            "below chance",
            f"Below chance: {told}. Normal {image}s score higher than anomalous ones.",
            "Look at the panels: the labels may be swapped, or the data unlike those of the "
            "training (aeflow doctor <data>).",
        )
    name, best = max(
        ((n, one) for n, one in metrics["baselines"].items() if _known(one["difference"])),
        key=lambda item: item[1]["image_auroc"]["value"],
        default=("", None),
    )
    if best is None:
        return Verdict("usable", f"Usable: {told}.", _rate_advice(metrics, image))
    trivial = f"{plainly(name)} alone reaches {best['image_auroc']['value']:.3f}"
    low, high = best["difference"]["ci95"] or (best["difference"]["value"],) * 2
    if high < 0.0:
        return Verdict(
            "weaker",
            f"Weaker than a trivial score: {told}, but {trivial}.",
            "Train longer or on more normal images (--preset best), or use that score.",
        )
    if low <= 0.0:
        return Verdict(
            "not surely better",
            f"Not surely better than a trivial score: {told}; {trivial}.",
            "More test patients, or a longer training (--preset best), would tell.",
        )
    return Verdict(
        "usable", f"Usable: {told}, better than any trivial score ({trivial}).",
        _rate_advice(metrics, image),
    )  # fmt: skip


def missing_for_evaluation(metrics: Mapping[str, Any], image: str = "image") -> list[str]:
    """What these test images, or windows, lack to be judged by; nothing where they can be."""
    lacking = []
    for name in CLASSES:
        images, patients = _count(metrics, name), _count(metrics, f"{name}_patients")
        if too_few(patients):
            found = f"{counted(images, image)} of {counted(patients, 'patient')}"
            lacking.append(
                f"{name} test {image}s of {LEAST_PATIENTS} patients at least; there "
                f"{'is' if images == 1 else 'are'} {found if images else 'none'}"
            )
    return lacking


def _unjudged(metrics: Mapping[str, Any], image: str) -> Verdict | None:
    missing = [name for name in CLASSES if not _count(metrics, name)]
    if missing:
        return Verdict(
            "not to be judged",
            f"Not to be judged: there is no {' and no '.join(missing)} test {image}.",
            "Add labelled data, and evaluate: aeflow evaluate <labelled data>.",
        )
    patients, rarer = min((_count(metrics, f"{name}_patients"), name) for name in CLASSES)
    if too_few(patients):
        return Verdict(
            "not to be judged",
            f"Not to be judged: {rarer} test {image}s of {counted(patients, 'patient')} are too "
            f"few, of at least {LEAST_PATIENTS} are needed.",
            "Add labelled data of other patients, and evaluate: aeflow evaluate <labelled data>.",
        )
    return None


def _count(metrics: Mapping[str, Any], name: str) -> int:
    return int(metrics[f"n_{name}"]["value"])


def _rate_advice(metrics: Mapping[str, Any], image: str) -> str:
    realised, target = metrics.get("realised_fpr"), metrics.get("target_fpr")
    if not (realised and target and _known(realised) and realised.get("ci95")):
        return ""
    if realised["ci95"][0] <= target["value"]:
        return ""
    return (
        f"But {realised['value']:.1%} of the normal {image}s are flagged, {target['value']:.1%} "
        "were promised: calibrate on this site (aeflow calibrate <normal data>)."
    )


def _known(figure: Mapping[str, Any]) -> bool:
    return figure.get("value") is not None

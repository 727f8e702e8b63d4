"""Whether a batch of new images scores like those by which a model was calibrated."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binomtest

from pipelines.metrics.rows import ScoreRow

LEAST = 20
"""Images, or volumes, from which a batch can be judged."""

SURE = 0.001
"""Level of the test."""

HOW_TO = (
    "Calibrate on normal images of this site: python -m monai.bundle run calibrating --config_file "
    "bundles/aeflow/calibrate.json --dataset_dir <normal images>."
)


def batch_notes(rows: Sequence[ScoreRow], promised: float) -> list[str]:
    """What is to be noted of a batch before its scores are believed.

    Of normal images one half scores below the median of those that calibrated. Where at most half
    of a batch is anomalous, between a quarter and a half of it should: fewer, and its normal images
    score too high; more, and all of it scores too low.

    Args:
        rows: as in ``scores.csv``; those known to be anomalous do not count.
        promised: the false-positive rate of the threshold.
    """
    whole = [row for row in rows if not row.is_part]
    outside = [row for row in whole if row.out_of_scope]
    notes = []
    if outside:
        notes.append(
            f"Out of the model's scope: {len(outside)} of {len(whole)} images, whose scores mean "
            f"little. The first: {outside[0].out_of_scope}. scores.csv says which and why."
        )
    judged = [
        row
        for row in whole
        if row.label != 1 and row.in_scope is not False and row.percentile is not None
    ]
    count = len(judged)
    if count < LEAST:
        return notes
    below = sum(float(row.percentile or 0.0) < 50.0 for row in judged)
    flagged = sum(bool(row.flagged) for row in judged) / count
    high = binomtest(below, count, 0.25, alternative="less").pvalue < SURE
    low = binomtest(below, count, 0.5, alternative="greater").pvalue < SURE
    if high or low:
        notes.append(
            f"The scores of these images are {'higher' if high else 'lower'} than those of the "
            "calibration: "
            f"{below / count:.0%} lie below their median, where 25 % to 50 % should if at most "
            f"half are anomalous; {flagged:.0%} are flagged, where of normal images "
            f"{promised:.0%} should be. {HOW_TO}"
        )
    return notes

"""What is noted of a batch before its scores are believed."""

from dataclasses import replace

import numpy as np

from pipelines.metrics.rows import ScoreRow
from pipelines.metrics.shift import LEAST, batch_notes


def rows(percentiles: list[float], label: int | None = None) -> list[ScoreRow]:
    return [
        ScoreRow(
            case=str(number), patient=str(number), level="image", slice=0, label=label,
            score=0.0, percentile=percentile, flagged=percentile > 95, in_scope=True,
        )
        for number, percentile in enumerate(percentiles)
    ]  # fmt: skip


def test_normal_images_with_up_to_half_anomalies_are_as_expected() -> None:
    for seed in range(20):
        source = np.random.default_rng(seed)
        normal = (100 * source.random(100)).tolist()
        assert batch_notes(rows(normal), 0.05) == []
        assert batch_notes(rows([*normal[:50], *[100.0] * 50]), 0.05) == []


def test_a_shifted_batch_is_told_with_both_rates() -> None:
    (note,) = batch_notes(rows([97.0] * 40), 0.05)
    assert "are higher" in note and "0% lie below their median" in note
    assert "100% are flagged, where of normal images 5% should be" in note
    assert "monai.bundle run calibrating" in note
    (note,) = batch_notes(rows([10.0] * 40), 0.05)
    assert "are lower" in note and "100% lie below" in note


def test_few_images_known_anomalies_and_slices_do_not_count() -> None:
    assert batch_notes(rows([99.0] * (LEAST - 1)), 0.05) == []
    assert batch_notes(rows([99.0] * 100, label=1), 0.05) == []
    assert batch_notes([replace(one, level="slice") for one in rows([99.0] * 100)], 0.05) == []


def test_what_is_out_of_scope_is_counted_and_left_out() -> None:
    out = [
        replace(one, in_scope=False, out_of_scope="it seems inverted") for one in rows([99.0] * 40)
    ]
    (note,) = batch_notes([*out, *rows([50.0, 30.0])], 0.05)
    assert note.startswith("Out of the model's scope: 40 of 42 images, whose")
    assert "The first: it seems inverted." in note

"""Metrics of events, against values found by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from pipelines.metrics.events import (
    count_events,
    event_metrics,
    matched_events,
    range_rewards,
    runs,
)
from pipelines.metrics.figure import Figure
from pipelines.metrics.pixel import PixelHistogram, default_edges, pixel_metrics
from transforms.errors import InputError


def mask(text: str) -> np.ndarray:
    """1 True, any other sign False."""
    return np.array([sign == "1" for sign in text])


def values(cases: list[tuple[str, str]], **options: int) -> dict[str, float | None]:
    """The figures of signals, each given as its flags and its labels."""
    counts = [
        count_events(f"p{number}", mask(flags), mask(labels), 0.5, **options)
        for number, (flags, labels) in enumerate(cases)
    ]
    return {name: figure.value for name, figure in event_metrics(counts, resamples=5).items()}


def test_runs_begin_and_end_anywhere() -> None:
    assert runs(mask("1101001")).tolist() == [[0, 2], [3, 4], [6, 7]]
    assert runs(mask("000")).tolist() == runs(mask("")).tolist() == []


def test_events_alarms_and_overlap_by_hand() -> None:
    # Two events, of which the first is found by half; of three alarms one is false, and the one
    # that spills over the event is half right and, behind the event, a false alarm too.
    found = values([("0011110010", "0000110110"), ("1000", "0000")])
    assert found == {
        "event_recall": 1.0,
        "event_precision": 2 / (2 + 2),
        "false_alarms": 1000 * 2 / 14,
        "range_recall": (1 + 0.5) / 2,
        "range_precision": (0.5 + 1 + 0) / 3,
    }


def test_a_tolerance_forgives_what_is_near_and_leaves_the_overlap() -> None:
    near = ("0100010000", "0010000000")
    assert values([near])["event_recall"] == 0
    assert values([near], tolerance=1)["event_recall"] == 1
    assert values([near], tolerance=1)["event_precision"] == 1 / 2
    assert values([near], tolerance=3)["event_precision"] == 1
    assert values([near], tolerance=3)["range_recall"] == 0


def test_flagging_everything_is_no_good_answer() -> None:
    found = values([("1111111111", "0001000000")])
    assert found["event_recall"] == found["range_recall"] == 1
    assert found["event_precision"] == 1 / 3 and found["range_precision"] == 1 / 10


def test_one_sample_of_a_long_event_finds_it_and_recalls_little() -> None:
    found = values([("0000100000", "1111111111")])
    assert found["event_recall"] == 1 and found["range_recall"] == 1 / 10


def test_gaps_are_taken_out_of_the_axis() -> None:
    trace = np.array([0, 2, np.nan, np.nan, 2, 0, np.nan, 0.0])
    labels = np.array([0, 1, 0, 0, 1, 0, 1, 0])  # as files say in gaps whatever they do
    counts = count_events("p", trace, labels, 1.0, seen=~np.isnan(trace))
    assert (counts.samples, counts.events, counts.found, counts.alarms) == (5, 1, 1, 1)
    assert counts.recalled == counts.confirmed == 1


def test_rewards_of_a_range_by_hand() -> None:
    ranges, others = mask("0111100"), mask("1101011")
    others[5] = False  # the second piece ends within the range
    assert range_rewards(ranges, others) == pytest.approx([2 / 4 / 2])
    others[4] = True  # one piece
    assert range_rewards(ranges, others) == pytest.approx([3 / 4 / 2])
    assert range_rewards(ranges, mask("0011100")) == pytest.approx([3 / 4])


def test_pointwise_figures_are_those_of_a_histogram_with_one_row() -> None:
    rng = np.random.default_rng(0)
    histogram, kept = PixelHistogram(default_edges()), []
    for number in range(6):
        labels, seen = rng.random((2, 400)) < np.array([[0.2], [0.8]])
        trace = np.where(seen, rng.normal(size=400) + labels, np.nan)
        histogram.add(f"p{number}", trace[None], labels[None], seen[None])
        kept.append((labels[seen], trace[seen]))
    truth, score = (np.concatenate(column) for column in zip(*kept, strict=True))
    found = pixel_metrics(histogram, 1.0, resamples=5)
    assert found["pixel_auroc"].value == pytest.approx(roc_auc_score(truth, score), abs=1e-3)
    assert found["pixel_ap"].value == pytest.approx(average_precision_score(truth, score), abs=1e-3)


def test_intervals_are_over_patients_and_undefined_figures_none() -> None:
    labels = mask("0011000000")
    counts = [
        count_events(f"p{number}", labels if number % 3 else ~labels, labels, 0.5)
        for number in range(12)
    ]
    figure = event_metrics(counts, resamples=50)["event_recall"]
    assert figure.value == pytest.approx(8 / 12) and figure.ci95 is not None
    assert figure.ci95[0] < 8 / 12 < figure.ci95[1]
    assert event_metrics(counts[:4])["event_recall"].note == "4 patients: no figure"
    quiet = event_metrics([count_events("p", np.zeros(9), np.zeros(9), 1.0)] * 5)
    assert quiet["event_recall"] == quiet["range_precision"] == Figure(None)
    assert quiet["false_alarms"].value == 0
    assert set(event_metrics([])) == set(quiet)


def test_false_alarms_by_the_hour() -> None:
    counts = [count_events("p", mask("1010"), np.zeros(4), 0.5)]
    assert event_metrics(counts, per=360)["false_alarms"].value == 180


def test_a_trivial_trace_is_told_at_the_lowest_level_with_as_few_false_alarms() -> None:
    labels, trace = mask("001100000000"), np.array([0, 3, 0, 9, 0, 5, 0, 7, 0, 2, 0, 0])
    ours = count_events("p", labels, labels, 0.5)
    loud = count_events("p", ~labels, labels, 0.5)
    levels = [count_events("p", trace, labels, level) for level in (1, 2, 6, 8)]
    assert [one.false_alarms for one in levels] == [4, 3, 1, 0]
    assert matched_events([loud], [levels]) == (levels[2],)
    assert matched_events([levels[1]], [levels]) == (levels[1],)
    assert matched_events([ours], [levels]) == (levels[3],)
    assert matched_events([ours], [levels[:2]]) == (levels[1],)


def test_mistakes_are_told() -> None:
    with pytest.raises(InputError, match="one length"):
        count_events("p", np.zeros(3), np.zeros(4), 1.0)
    with pytest.raises(InputError, match="NaN"):
        count_events("p", [np.nan, 0], [0, 0], 1.0)

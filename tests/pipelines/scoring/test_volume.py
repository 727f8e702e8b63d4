"""One score per case."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from networks.conformal import conformal_rank, patient_weights
from networks.errors import ArgumentError
from pipelines.scoring.volume import CaseReference, CaseScore, case_score, score_volume, top_slices

SCORES = st.lists(st.floats(-20, 50, width=32), min_size=1, max_size=60)


def scored(scores: list[float], reference: CaseReference, **more: list[float]) -> CaseScore:
    score = np.array(scores, dtype=np.float64)
    parts = {"flow": score + 1, "recon": -score}
    return score_volume(score, parts | {n: np.array(v) for n, v in more.items()}, reference)


@pytest.mark.parametrize(
    ("count", "taken"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (30, 3), (70, 7), (155, 16)]
)
def test_the_most_anomalous_tenth_makes_the_score(count: int, taken: int) -> None:
    scores = np.random.default_rng(count).permutation(count).astype(float)
    top = top_slices(scores)
    assert len(top) == taken
    assert scores[top].tolist() == [float(count - 1 - rank) for rank in range(taken)]
    assert case_score(scores) == pytest.approx(np.sort(scores)[-taken:].mean())


def test_the_parts_are_of_the_same_slices() -> None:
    scores = [float(value) for value in range(20)]
    head = [100.0] * 18 + [3.0, 5.0]
    found = scored(scores, CaseReference((), 0.05), head=head)
    assert found.score == 18.5
    assert found.parts == {"flow": 19.5, "recon": -18.5, "head": 4.0}
    assert set(scored(scores, CaseReference((), 0.05)).parts) == {"flow", "recon"}


@given(scores=SCORES, where=st.integers(0, 59), more=st.floats(0, 100, width=32))
@settings(deadline=None, derandomize=True)
def test_a_higher_slice_never_lowers_the_case(scores: list[float], where: int, more: float) -> None:
    before = np.array(scores, dtype=np.float64)
    after = before.copy()
    after[where % len(scores)] += more
    assert case_score(after) >= case_score(before) - 1e-9
    assert before.mean() - 1e-9 <= case_score(before) <= before.max() + 1e-9


@pytest.mark.parametrize("count", [19, 20, 39, 100])
@pytest.mark.parametrize("target", [0.05, 0.2])
def test_the_threshold_is_the_conformal_rank_of_the_reference(count: int, target: float) -> None:
    reference = CaseReference(tuple(float(value) for value in range(count)), target)
    assert reference.fpr == target
    assert reference.threshold == conformal_rank(patient_weights(range(count)), target)


@pytest.mark.parametrize("count", [1, 3, 18])
def test_few_cases_hold_a_looser_rate_only(count: int) -> None:
    reference = CaseReference(tuple(float(value) for value in range(count)), 0.05)
    assert reference.fpr == pytest.approx(1 / (count + 1))
    assert reference.threshold == count - 1  # the highest of all


def test_what_exceeds_the_threshold_is_flagged() -> None:
    reference = CaseReference((0.0, 1.0, 2.0), 0.05)
    at, above = (scored([value], reference) for value in (2.0, 2.5))
    assert (at.flagged, above.flagged) == (False, True)
    assert at.threshold == 2.0 and at.target_fpr == 0.25 and at.n_normal == 3


def test_percentiles_count_the_cases_at_or_below() -> None:
    reference = CaseReference((0.0, 1.0, 1.0, 2.0), 0.5)
    told = [reference.percentile(score) for score in (-1.0, 0.0, 1.0, 1.5, 2.0, 9.0)]
    assert told == [0.0, 25.0, 75.0, 75.0, 100.0, 100.0]


def test_without_reference_nothing_is_decided() -> None:
    found = scored([1.0, 2.0], CaseReference((), 0.05))
    nothing = (found.percentile, found.p_value, found.flagged, found.threshold, found.target_fpr)
    assert nothing == (None,) * 5 and found.n_normal == 0
    assert math.isfinite(found.score)


def test_slices_are_gathered_by_case() -> None:
    scores = np.array([5.0, 1.0, 7.0, 3.0, *range(10, 30)])
    cases = np.array([4, 2, 4, 2, *[9] * 20])
    patients = [{4: "a", 2: "b", 9: "a"}[case] for case in cases]
    reference = CaseReference.of_slices(scores, cases, 0.1, patients)
    assert reference.scores == (3.0, 7.0, 28.5) and reference.target_fpr == 0.1
    assert reference.weights == (1.0, 0.5, 0.5) and reference.n_patients == 2
    assert reference.fpr == pytest.approx(1 / 3) and reference.threshold == 28.5
    assert reference.p_value(7.0) == pytest.approx((1 + 1) / 3)
    assert CaseReference.of_slices(np.empty(0), np.empty(0, int), 0.1, []).scores == ()


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ArgumentError, match="target_fpr"):
        _ = CaseReference((1.0, 2.0), 1.5).threshold


def test_the_values_hold_the_parts_that_there_are_under_their_columns() -> None:
    found = CaseScore(1.0, {"flow": 2.0, "recon": 3.0}, 50.0, 0.5, True, 0.5, 0.05, 20).as_dict()
    assert list(found)[:4] == ["score", "flow_score", "recon_score", "percentile"]
    assert (found["flow_score"], found["recon_score"]) == (2.0, 3.0)
    assert "head_score" not in found and "parts" not in found and found["flagged"] is True
    assert (
        CaseScore(1.0, {"head": 4.0}, 5.0, 0.5, True, 0.5, 0.05, 20).as_dict()["head_score"] == 4.0
    )

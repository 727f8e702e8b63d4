"""Thresholds and p-values where the images of one patient are one draw."""

from fractions import Fraction

import pytest
import torch

from networks.calibration import N_QUANTILES, Calibration
from networks.conformal import (
    conformal_rank,
    p_value,
    patient_weights,
    patients_needed,
    supported_rate,
)
from networks.errors import ArgumentError


@pytest.mark.parametrize("fpr", ["1/20", "1/10", "1/4", "1/3", "1/2", "3/4"])
def test_the_rank_bounds_the_rate_as_closely_as_possible(fpr: str) -> None:
    rate = Fraction(fpr)
    for count in range(1, 120):
        # A new score exceeds the one of rank k with probability (count + 1 - k) / (count + 1).
        possible = [k for k in range(1, count + 1) if Fraction(count + 1 - k, count + 1) <= rate]
        weights = patient_weights(range(count))
        assert (supported_rate(count, float(rate)) == float(rate)) == bool(possible)
        assert bool(possible) == (count >= patients_needed(float(rate)))
        rank = conformal_rank(weights, supported_rate(count, float(rate)))
        assert rank + 1 == min(possible, default=count)


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, 5.0])
def test_a_rate_out_of_range_is_refused(fpr: float) -> None:
    with pytest.raises(ArgumentError, match="target_fpr: expected a rate between 0 and 1"):
        supported_rate(100, fpr)


def drawn(patients: int, images: int, source: torch.Generator) -> torch.Tensor:
    """Scores whose patients differ three times as much as the images of one, ``(P, I)``."""
    own = 3 * torch.randn(patients, 1, generator=source)
    return (own + torch.randn(patients, images, generator=source)).double()


@pytest.mark.parametrize(("patients", "images"), [(19, 1), (39, 5), (19, 20)])
def test_new_patients_exceed_the_threshold_as_often_as_promised(patients: int, images: int) -> None:
    source = torch.Generator().manual_seed(0)
    owners = [patient for patient in range(patients) for _ in range(images)]
    ours, naive, p_values = [], [], []
    for _ in range(400):
        calibration = Calibration([], [])
        scores = drawn(patients, images, source).flatten()
        calibration.double().fit_scores(scores, patient_weights(owners), 0.05)
        fresh = calibration.standardize(drawn(50, 1, source).flatten())
        ours.append((fresh > calibration.threshold).double().mean())
        alone = patient_weights(range(len(scores)))
        level = calibration.standardize(scores.sort().values[conformal_rank(alone, 0.05)])
        naive.append((fresh > level).double().mean())
        p_values.append((calibration.p_value(fresh) <= 0.1).double().mean())
    assert torch.stack(ours).mean() <= 0.05 + 0.012
    assert images > 1 or torch.stack(ours).mean() >= 0.05 - 0.012
    assert torch.stack(p_values).mean() <= 0.112
    if images == 20:
        assert torch.stack(naive).mean() > 0.055


def test_another_rate_is_read_from_the_quantiles() -> None:
    scores = torch.randn(400, generator=torch.Generator().manual_seed(0))
    owners = [number // 2 for number in range(400)]
    calibration, direct = Calibration([], []), Calibration([], [])
    calibration.fit_scores(scores, patient_weights(owners), 0.05)
    for rate in (0.01, 0.1, 0.5, 1e-6):
        calibration.retarget(rate)
        direct.fit_scores(scores, patient_weights(owners), rate)
        assert float(calibration.target_fpr) == float(direct.target_fpr)
        above = (calibration.quantiles >= direct.threshold).nonzero()[0]
        assert calibration.threshold <= calibration.quantiles[min(int(above) + 2, N_QUANTILES - 1)]
        assert calibration.threshold >= direct.threshold


def test_p_values_are_ranks_among_patients() -> None:
    assert p_value(torch.tensor([0.0, 1.0, 3.0]), 3).tolist() == [0.25, 0.5, 1.0]
    calibration = Calibration([], [])
    calibration.fit_scores(torch.arange(9.0), patient_weights(range(9)), 0.2)
    found = calibration.p_value(calibration.standardize(torch.arange(-1.0, 11.0)))
    expected = torch.tensor([1.0, 1.0, *[(10 - k) / 10 for k in range(1, 9)], 0.1, 0.1])
    assert (found >= expected - 1e-6).all() and (found <= expected + 0.002).all()
    flagged = calibration.standardize(torch.arange(9.0)) > calibration.threshold
    assert flagged.tolist() == [False] * 8 + [True]

"""Patients, not images, are drawn."""

import json

import numpy as np
import pytest

from pipelines.metrics.bootstrap import draw_patients
from pipelines.metrics.figure import Figure
from transforms.errors import InputError


def test_every_resample_draws_as_many_patients_as_there_are() -> None:
    draw = draw_patients(["b", "a", "b", "c"], resamples=50)
    assert draw.multiplicities.shape == (50, 3)
    assert (draw.multiplicities.sum(1) == 3).all()
    assert draw.patient_index.tolist() == [1, 0, 1, 2]


def test_images_of_a_patient_come_and_go_together() -> None:
    draw = draw_patients(["b", "a", "b", "c"], resamples=50)
    weights = draw.distribute(lambda weights: weights)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert len(np.unique(weights[:, 0])) > 1


def test_classes_are_drawn_apart_only_where_no_patient_has_both() -> None:
    patients = ["a", "b", "c", "d", "e"]
    apart = draw_patients(patients, [0, 0, 0, 1, 1], resamples=200)
    assert (apart.multiplicities[:, 3:].sum(1) == 2).all()
    mixed = draw_patients([*patients, "e"], [0, 0, 0, 1, 1, 0], resamples=200)
    assert len(np.unique(mixed.multiplicities[:, 3:].sum(1))) > 1


def test_draw_depends_on_the_seed_and_not_on_the_order_of_the_rows() -> None:
    patients = np.array([f"p{i % 7}" for i in range(30)])
    shuffled = np.random.default_rng(1).permutation(patients)
    first, again, other = (draw_patients(patients, seed=seed) for seed in (3, 3, 4))
    assert (first.multiplicities == again.multiplicities).all()
    assert (first.multiplicities == draw_patients(shuffled, seed=3).multiplicities).all()
    assert (first.multiplicities != other.multiplicities).any()


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = draw_patients(np.arange(9), resamples=20)
    whole = draw.distribute(lambda weights: weights @ np.arange(9.0))
    monkeypatch.setattr("pipelines.metrics.bootstrap.BLOCK_ELEMENTS", 28)
    assert (draw.distribute(lambda weights: weights @ np.arange(9.0)) == whole).all()


def test_interval_of_a_mean_has_the_width_that_theory_gives() -> None:
    values = np.random.default_rng(0).normal(size=400)
    draw = draw_patients(np.arange(400), resamples=2000)
    draws = draw.distribute(lambda weights: weights @ values / 400)
    figure = draw.figure(values.mean(), draws, 400)
    assert figure.ci95 is not None
    expected = 2 * 1.96 * values.std() / 20
    assert figure.ci95[1] - figure.ci95[0] == pytest.approx(expected, rel=0.06)


def test_no_interval_where_it_would_be_a_guess() -> None:
    draw, same = draw_patients(list("abcde"), resamples=10), np.full(10, 0.5)
    assert draw.figure(0.5, same, 5) == Figure(0.5, (0.5, 0.5))
    assert draw.figure(0.5, same, 4) == Figure(0.5, None, "4 patients: no figure")
    assert draw.figure(0.5, np.r_[same[:8], np.nan, np.nan], 5) == Figure(0.5)
    assert draw.figure(0.5, np.r_[same[:9], np.nan], 5).ci95 == (0.5, 0.5)


def test_undefined_values_are_none_and_json_is_strict() -> None:
    draw = draw_patients(["a", "b"], resamples=10)
    assert draw.figure(float("nan"), np.zeros(10), 9) == Figure(None)
    text = json.dumps(draw.figure(0.25, np.zeros(10), 9).as_dict(), allow_nan=False)
    assert json.loads(text) == {"value": 0.25, "ci95": [0.0, 0.0]}
    assert Figure(None).as_dict() == {"value": None, "ci95": None}


def test_mistakes_are_told() -> None:
    with pytest.raises(InputError, match="'patients' is empty"):
        draw_patients([])
    with pytest.raises(InputError, match="'labels'"):
        draw_patients(["a", "b"], [0, 1, 1])

"""Weights fitted on anomalies that no training has seen."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from networks import AnomalyScorer
from pipelines.data.datasets import slice_loader
from pipelines.scoring.calibration import Calibrator
from pipelines.scoring.weights import WeightFitter, logistic_weights
from transforms.recipe import withheld_recipe
from transforms.synthetic import SyntheticAnomalies

MakeImages = Callable[..., Tensor]


@pytest.fixture
def fitter() -> WeightFitter:
    return WeightFitter(SyntheticAnomalies(withheld_recipe("body", "opacity")), seed=3)


def test_patients_are_taken_whole_and_only_where_there_are_enough(fitter: WeightFitter) -> None:
    patients = [f"p{n // 2}" for n in range(120)]
    chosen = fitter.chosen(patients)
    taken = {p for p, one in zip(patients, chosen, strict=True) if one}
    assert len(taken) == 20 and not taken & {
        p for p, one in zip(patients, chosen, strict=True) if not one
    }
    assert (chosen == fitter.chosen(patients)).all()
    assert (chosen != WeightFitter(fitter.synthetic, seed=4).chosen(patients)).any()
    assert not fitter.chosen(patients[:118]).any()
    assert not WeightFitter(fitter.synthetic, wanted=False).chosen(patients).any()


def test_what_tells_apart_weighs_and_nothing_weighs_less_than_nothing() -> None:
    draw = np.random.default_rng(0)
    labels = (np.arange(4000) % 4 == 0).astype(float)
    good, weak = 2 * labels + draw.normal(size=4000), labels + draw.normal(size=4000)
    noise, wrong = draw.normal(size=4000), draw.normal(size=4000) - labels
    found = logistic_weights(np.stack([good, weak, noise, wrong], axis=1), labels)
    assert found[0] > 1.5 * found[1] > 0 and found[2] < 0.1 and found[3] == 0
    few = np.concatenate([np.flatnonzero(labels)[:100], np.flatnonzero(labels == 0)])
    again = logistic_weights(np.stack([good, weak], axis=1)[few], labels[few])
    assert again[0] / again[1] == pytest.approx(found[0] / found[1], rel=0.3)


def test_the_calibration_fits_them_on_patients_that_set_no_threshold(
    fitter: WeightFitter, make_scorer: Any, make_images: MakeImages, make_slices: Any
) -> None:
    scorer: AnomalyScorer = make_scorer(with_head=True)
    dataset = make_slices(make_images(66))
    given = dict(scorer.fusion.config["weights"])
    calibrator = Calibrator(scorer, loader_of(dataset), "cpu", 0.2, weights=fitter)
    assert calibrator.fitted_on == 22
    calibrator.run()
    fitted = scorer.fusion.config
    assert fitted["weights"] != given and set(fitted["weights"]) == set(scorer.parts)
    assert sum(fitted["weights"].values()) == pytest.approx(1)
    assert sum(fitted["map_weights"].values()) == pytest.approx(1)
    assert len(calibrator.slice_scores) == len(calibrator.case_numbers) == 44
    assert int(scorer.calibration.n_normal) == 44
    judged = torch.stack([dataset[int(n)]["image"] for n in calibrator.case_numbers])
    with torch.no_grad():
        found = scorer.score_image(judged).score
    expected = torch.from_numpy(calibrator.slice_scores).float()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_with_few_patients_the_given_weights_stay(
    fitter: WeightFitter, make_scorer: Any, make_images: MakeImages, make_slices: Any
) -> None:
    scorer = make_scorer()
    given = scorer.fusion.config
    calibrator = Calibrator(
        scorer, loader_of(make_slices(make_images(12))), "cpu", 0.2, weights=fitter
    )
    calibrator.run()
    assert calibrator.fitted_on == 0 and scorer.fusion.config == given
    assert len(calibrator.slice_scores) == 12


def loader_of(dataset: Any) -> Any:
    return slice_loader(dataset, 8)


def test_a_part_alone_stays_the_score(
    fitter: WeightFitter, make_scorer: Any, make_images: MakeImages, make_slices: Any
) -> None:
    scorer = make_scorer(with_head=True, score="recon")
    given = dict(scorer.fusion.weights), dict(scorer.fusion.map_weights)
    loader = loader_of(make_slices(make_images(66)))
    Calibrator(scorer, loader, "cpu", 0.2, weights=fitter).run()
    assert scorer.fusion.weights == given[0] and scorer.fusion.map_weights != given[1]

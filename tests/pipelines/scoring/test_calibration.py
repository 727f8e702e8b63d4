"""Calibration on held-out normal images."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from networks import AnomalyScorer
from networks.calibration import KNOTS, N_QUANTILES, Deviates
from networks.conformal import patient_weights
from networks.errors import ArgumentError
from networks.levels import level_at
from networks.normative import NormativeMap
from networks.pooling import LINEAR_RANGE, compress
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.scoring.calibration import Calibrator
from transforms.errors import InputError

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
MakeSlices = Callable[..., NormalSlices]
Calibrate = Callable[[AnomalyScorer, Tensor], AnomalyScorer]


def all_pixels(scorer: AnomalyScorer, image: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = scorer(image)[(image > 0).any(dim=1, keepdim=True)]
    return found


def test_too_few_patients_are_told_before_any_work(
    make_scorer: MakeScorer, make_images: MakeImages, make_slices: MakeSlices
) -> None:
    scorer = make_scorer()
    loader = slice_loader(make_slices(make_images(18)), 4)
    calibrator = Calibrator(scorer, loader, "cpu", target_fpr=0.05)
    note = calibrator.check()
    assert note is not None and "needs 19 held-out normal patients" in note
    assert "with the 18 at hand the threshold is set for 0.0526" in note
    calibrator.run()
    assert float(scorer.calibration.target_fpr) == pytest.approx(1 / 19)
    assert Calibrator(scorer, loader, "cpu", 0.06).check() is None
    with pytest.raises(InputError, match="pixel_fpr: expected a rate"):
        Calibrator(scorer, loader, "cpu", 0.2, pixel_fpr=0.0).check()
    with pytest.raises(ArgumentError, match="target_fpr: expected a rate"):
        Calibrator(scorer, loader, "cpu", 5.0).check()


def test_images_of_one_patient_are_one_draw(
    make_scorer: MakeScorer, make_images: MakeImages, make_slices: MakeSlices
) -> None:
    dataset = make_slices(make_images(12))
    dataset.data = tuple(replace(case, patient=str(i % 3)) for i, case in enumerate(dataset.data))
    scorer = make_scorer()
    calibrator = Calibrator(scorer, slice_loader(dataset, 4), "cpu", 0.2)
    calibrator.run()
    calibration = scorer.calibration
    assert (int(calibration.n_normal), int(calibration.n_patients)) == (12, 3)
    assert float(calibration.target_fpr) == pytest.approx(1 / 4)
    highest = max(calibrator.slice_scores)
    assert float(calibration.threshold) == pytest.approx(highest)
    assert float(calibration.p_value(torch.tensor([highest + 1]))) == pytest.approx(1 / 4)


@pytest.mark.parametrize("score", ["fused", "paper", "flow", "head"])
def test_parts_maps_and_score_are_standardised(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate, score: str
) -> None:
    images = make_images(10)
    scorer = calibrate(make_scorer(with_head=True, score=score), images)
    with torch.no_grad():
        found = scorer.score_image(images)
        maps = scorer.evidence(images).maps
    assert set(found.parts) == {"flow", "recon", "head", "density"}
    for name, value in {"score": found.score, **found.parts}.items():
        # Parts are compressed once standardised.
        plain = value if name == "score" else LINEAR_RANGE * torch.sinh(value / LINEAR_RANGE)
        assert plain.mean().item() == pytest.approx(0, abs=2e-3), name
        assert plain.std().item() == pytest.approx(1, abs=2e-3), name
    calibration = scorer.calibration.maps
    assert calibration.names == ("flow8", "recon", "head")
    inside = (images > 0).any(dim=1, keepdim=True).float()
    for name, levels in zip(calibration.names, calibration.levels, strict=True):
        own = maps[name][F.adaptive_avg_pool2d(inside, maps[name].shape[-2:]) > 0.5]
        for deviate, level in ((0.0, levels[KNOTS.index(0.0)]), (1.0, levels[KNOTS.index(1.0)])):
            above = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(-deviate))
            assert (own > level).float().mean().item() == pytest.approx(above.item(), abs=0.02)


def test_maps_of_any_tail_become_normal_deviates() -> None:
    draw = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    maps = Deviates(["thin", "heavy", "still"])
    for name, values in (("thin", draw), ("heavy", draw.exp().square()), ("still", 0 * draw)):
        maps.fit(name, values)
    probe = torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0])
    expected = compress(probe)
    torch.testing.assert_close(maps("thin", probe), expected, atol=0.03, rtol=0)
    torch.testing.assert_close(maps("heavy", probe.exp().square()), expected, atol=0.1, rtol=0)
    torch.testing.assert_close(maps("still", probe), expected)
    ends = torch.tensor([-1e6, 1e6])
    assert maps("heavy", ends).abs().max() < 50 and (maps("heavy", ends).diff() > 0).all()


def test_the_background_does_not_count_among_normal_pixels(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate
) -> None:
    images = make_images(6)
    images[..., :16] = 0.0
    scorer = calibrate(make_scorer(), images)
    with torch.no_grad():
        recon = scorer.evidence(images).maps["recon"]
    median = recon[(images > 0).any(dim=1, keepdim=True)].median()
    found = scorer.calibration.maps.levels[1, KNOTS.index(0.0)]
    torch.testing.assert_close(found, median, rtol=0.02, atol=0)


def test_parts_that_training_decided_are_calibrated(
    make_scorer: MakeScorer, make_images: MakeImages, make_slices: MakeSlices
) -> None:
    weights = {"flow": 0.5, "dark": 0.5}
    scorer, images = make_scorer(weights=weights, map_weights=weights), make_images(10)
    scorer.detector.normative = NormativeMap(1)
    scorer.detector.normative.mean.uniform_(0.2, 0.8)
    dataset = make_slices(images, placed=True)
    Calibrator(scorer, slice_loader(dataset, 4), "cpu", 0.2).run()
    context = {name: dataset.context[name] for name in ("body", "place")}
    with torch.no_grad():
        found = scorer.score_image(images, context)
    assert set(found.parts) == {"flow", "recon", "density", "bright", "dark", "local"}
    for name in ("bright", "dark"):
        plain = LINEAR_RANGE * torch.sinh(found.parts[name] / LINEAR_RANGE)
        assert plain.mean().item() == pytest.approx(0, abs=2e-3), name
        assert plain.std().item() == pytest.approx(1, abs=2e-3), name
    assert found.score.std().item() == pytest.approx(1, abs=2e-3)
    assert scorer.fusion.config["weights"] == weights


def test_threshold_and_quantiles_are_the_normal_scores_own(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate
) -> None:
    images = make_images(10)
    scorer = calibrate(make_scorer(), images)  # at a rate of 0.2
    with torch.no_grad():
        found = scorer.score_image(images)
    ordered = found.score.sort().values
    torch.testing.assert_close(scorer.calibration.threshold, ordered[8], atol=1e-4, rtol=1e-4)
    assert int(scorer.calibration.n_normal) == 10
    assert float(scorer.calibration.target_fpr) == pytest.approx(0.2)
    quantiles = scorer.calibration.quantiles
    assert len(quantiles) == N_QUANTILES
    torch.testing.assert_close(quantiles[[0, -1]], ordered[[0, -1]], atol=1e-4, rtol=1e-4)
    assert (quantiles.diff() >= 0).all()


def test_the_result_does_not_depend_on_the_batches(
    make_scorer: MakeScorer, make_images: MakeImages, make_slices: MakeSlices
) -> None:
    states = []
    for batch_size in (3, 10):
        scorer = make_scorer()
        loader = slice_loader(make_slices(make_images(10)), batch_size)
        Calibrator(scorer, loader, "cpu", 0.2).run()
        states.append(scorer.state_dict())
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], atol=1e-4, rtol=1e-4)


def test_the_scores_of_the_images_are_remembered_in_their_order(
    make_scorer: MakeScorer, make_images: MakeImages, make_slices: MakeSlices
) -> None:
    scorer, images = make_scorer(), make_images(10)
    calibrator = Calibrator(scorer, slice_loader(make_slices(images), 4), "cpu", 0.2)
    assert calibrator.slice_scores.shape == (0,)
    calibrator.run()
    with torch.no_grad():
        found = scorer.score_image(images).score
    assert calibrator.slice_scores.tolist() == pytest.approx(found.tolist(), abs=1e-4)
    assert found.tolist() != sorted(found.tolist())


@pytest.mark.parametrize("pixel_fpr", [0.01, 0.1])
def test_the_pixel_threshold_lets_about_the_asked_share_through(
    make_scorer: MakeScorer, make_images: MakeImages, make_slices: MakeSlices, pixel_fpr: float
) -> None:
    scorer, images = make_scorer(), make_images(10)
    Calibrator(scorer, slice_loader(make_slices(images), 4), "cpu", 0.2, pixel_fpr).run()
    share = (all_pixels(scorer, images) > scorer.calibration.pixel_threshold).float().mean().item()
    assert 0.8 * pixel_fpr < share <= pixel_fpr


def test_the_levels_of_the_map_are_those_of_the_normal_pixels(
    make_scorer: MakeScorer, make_images: MakeImages, make_slices: MakeSlices
) -> None:
    scorer, images = make_scorer(), make_images(10)
    Calibrator(scorer, slice_loader(make_slices(images), 4), "cpu", 0.2, 0.02).run()
    pixels = all_pixels(scorer, images)
    calibration, levels = scorer.calibration, scorer.calibration.pixel_levels
    assert float(calibration.pixel_fpr) == pytest.approx(0.02)
    assert level_at(levels, 98.0) == pytest.approx(float(calibration.pixel_threshold), abs=0.02)
    assert level_at(levels, 0.0) == pytest.approx(float(pixels.min()), abs=1e-4)
    for percentile in (20.0, 50.0, 90.0, 99.0, 99.7):
        share = 100 * float((pixels > level_at(levels, percentile)).float().mean())
        assert share == pytest.approx(100 - percentile, rel=0.2), percentile
    assert (levels.diff() >= 0).all()


def test_large_images_give_evenly_spaced_pixels_alone(
    make_scorer: MakeScorer,
    make_images: MakeImages,
    make_slices: MakeSlices,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipelines.scoring.calibration.PIXELS_PER_IMAGE", 50)
    scorer, image = make_scorer(), make_images(2)
    calibrator = Calibrator(scorer, slice_loader(make_slices(image), 4), "cpu")
    with torch.no_grad():
        _, pixels = calibrator._pool(scorer.evidence(image), (image > 0).any(dim=1, keepdim=True))
    assert 100 <= len(pixels) < 130


def test_an_absent_head_has_no_place_in_the_calibration(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate
) -> None:
    calibration = calibrate(make_scorer(), make_images(6)).calibration
    assert calibration.parts.names == ("flow", "recon", "density")
    assert calibration.parts.mean.shape == (3,)


def test_what_does_not_vary_is_only_shifted(make_scorer: MakeScorer) -> None:
    calibration = make_scorer().calibration
    parts = {name: torch.linspace(0, 1, 9) for name in ("recon", "density")}
    parts["flow"] = torch.full((9,), 4.0)
    calibration.fit_parts(parts)
    assert calibration.parts.mean[0] == 4 and calibration.parts.scale[0] == 1
    assert (calibration.parts("flow", parts["flow"]) == 0).all()
    found = calibration.fit_scores(torch.full((9,), 4.0), patient_weights(range(9)), 0.2)
    assert (found == 0).all() and calibration.score_scale == 1


def test_pixels_of_the_body_alone_set_the_pixel_threshold(
    make_scorer: MakeScorer, make_images: MakeImages, make_slices: MakeSlices
) -> None:
    scorer, images = make_scorer(), make_images(10)
    body = torch.zeros(10, 1, 32, 32, dtype=torch.bool)
    body[..., 12:16, :9] = True  # beside and inside what is above 0

    dataset = make_slices(images)
    dataset.context["body"] = body
    Calibrator(scorer, slice_loader(dataset, 4), "cpu", 0.2, 0.1).run()
    with torch.no_grad():
        pixels = scorer(images)[body]
    assert (images == 0).all(dim=1, keepdim=True)[body].any()
    torch.testing.assert_close(
        scorer.calibration.pixel_levels[0], pixels.min(), atol=1e-4, rtol=1e-4
    )
    share = float((pixels > scorer.calibration.pixel_threshold).float().mean())
    assert 0.08 < share <= 0.1

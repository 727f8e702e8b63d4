"""Calibration on held-out normal images."""

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from networks import AnomalyScorer
from networks.levels import level_at
from networks.scorer import LINEAR_RANGE, N_QUANTILES
from pipelines.data.slices import NormalSlices, slice_loader
from pipelines.scoring.calibration import Calibrator, conformal_rank
from transforms.errors import InputError

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
MakeSlices = Callable[[Tensor], NormalSlices]
Calibrate = Callable[[AnomalyScorer, Tensor], AnomalyScorer]


def all_pixels(scorer: AnomalyScorer, image: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = scorer(image)[(image > 0).any(dim=1, keepdim=True)]
    return found


@pytest.mark.parametrize("fpr", ["1/20", "1/10", "1/4", "1/3", "1/2", "3/4"])
def test_the_rank_bounds_the_rate_as_closely_as_possible(fpr: str) -> None:
    rate = Fraction(fpr)
    for count in range(1, 120):
        # A new score exceeds the one of rank k with probability (count + 1 - k) / (count + 1).
        possible = [k for k in range(1, count + 1) if Fraction(count + 1 - k, count + 1) <= rate]
        if possible:
            assert conformal_rank(count, float(rate)) == min(possible)
        else:
            with pytest.raises(InputError, match=f"needs at least {-(-1 // rate) - 1} held-out"):
                conformal_rank(count, float(rate))


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, 5.0])
def test_a_rate_out_of_range_is_refused(fpr: float) -> None:
    with pytest.raises(InputError, match="target_fpr: expected a rate between 0 and 1"):
        conformal_rank(100, fpr)


@pytest.mark.parametrize(("count", "fpr"), [(19, 0.05), (50, 0.1), (99, 0.05), (30, 0.25)])
def test_fresh_normal_scores_exceed_the_threshold_at_most_as_often_as_asked(
    make_scorer: MakeScorer, count: int, fpr: float
) -> None:
    scorer = make_scorer(score="recon")
    calibrator = Calibrator(scorer, None, "cpu", fpr)  # type: ignore[arg-type]
    draws, fresh, rates = 400, 200, []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        scores = torch.randn(count + fresh, 1, generator=generator).exp() * 10 - 3
        parts = torch.cat([torch.zeros_like(scores), scores, torch.zeros_like(scores)], dim=1)
        calibrator._fit_scores(parts[:count])
        found = (scorer.raw_score(parts[count:]) - scorer.score_mean) / scorer.score_scale
        rates.append(float((found > scorer.threshold).float().mean()))
    found_rate = sum(rates) / draws
    expected = 1 - conformal_rank(count, fpr) / (count + 1)
    assert expected <= fpr + 1e-9
    assert found_rate == pytest.approx(expected, abs=0.012)


def test_too_few_images_are_refused_before_any_work(
    make_scorer: MakeScorer, make_images: MakeImages, make_slices: MakeSlices
) -> None:
    scorer = make_scorer()
    loader = slice_loader(make_slices(make_images(18)), 4)
    calibrator = Calibrator(scorer, loader, "cpu", target_fpr=0.05)
    for attempt in (calibrator.check, calibrator.run):
        with pytest.raises(
            InputError, match="needs at least 19 held-out normal images .* found 18"
        ):
            attempt()
    assert not scorer.calibrated
    with pytest.raises(InputError, match="pixel_fpr: expected a rate"):
        Calibrator(scorer, loader, "cpu", 0.2, pixel_fpr=0.0).check()


@pytest.mark.parametrize("score", ["fused", "paper", "flow", "head"])
def test_parts_maps_and_score_are_standardised(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate, score: str
) -> None:
    images = make_images(10)
    scorer = calibrate(make_scorer(with_head=True, score=score), images)
    with torch.no_grad():
        found = scorer.score_image(images)
        parts = scorer.parts(images)
    for name in ("score", "flow_score", "recon_score", "head_score"):
        value = getattr(found, name)
        if name != "score":  # parts are compressed once standardised
            value = LINEAR_RANGE * torch.sinh(value / LINEAR_RANGE)
        assert value.mean().item() == pytest.approx(0, abs=2e-3), name
        assert value.std().item() == pytest.approx(1, abs=2e-3), name
    for index, name in enumerate(scorer.map_names):
        raw = parts.maps[name]
        assert raw.mean().item() == pytest.approx(scorer.map_mean[index].item(), rel=1e-4)
        assert raw.std().item() == pytest.approx(scorer.map_scale[index].item(), rel=1e-2)


def test_threshold_and_quantiles_are_the_normal_scores_own(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate
) -> None:
    images = make_images(10)
    scorer = calibrate(make_scorer(), images)  # at a rate of 0.2
    with torch.no_grad():
        found = scorer.score_image(images)
    ordered = found.score.sort().values
    torch.testing.assert_close(scorer.threshold, ordered[8], atol=1e-4, rtol=1e-4)
    assert int(scorer.n_normal) == 10 and float(scorer.target_fpr) == pytest.approx(0.2)
    assert len(scorer.quantiles) == N_QUANTILES
    torch.testing.assert_close(scorer.quantiles[[0, -1]], ordered[[0, -1]], atol=1e-4, rtol=1e-4)
    assert (scorer.quantiles.diff() >= 0).all()


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
    share = (all_pixels(scorer, images) > scorer.pixel_threshold).float().mean().item()
    assert 0.8 * pixel_fpr < share <= pixel_fpr


def test_the_levels_of_the_map_are_those_of_the_normal_pixels(
    make_scorer: MakeScorer, make_images: MakeImages, make_slices: MakeSlices
) -> None:
    scorer, images = make_scorer(), make_images(10)
    Calibrator(scorer, slice_loader(make_slices(images), 4), "cpu", 0.2, 0.02).run()
    pixels = all_pixels(scorer, images)
    assert float(scorer.pixel_fpr) == pytest.approx(0.02)
    assert level_at(scorer.pixel_levels, 98.0) == pytest.approx(
        float(scorer.pixel_threshold), abs=0.02
    )
    assert level_at(scorer.pixel_levels, 0.0) == pytest.approx(float(pixels.min()), abs=1e-4)
    for percentile in (20.0, 50.0, 90.0, 99.0, 99.7):
        share = 100 * float((pixels > level_at(scorer.pixel_levels, percentile)).float().mean())
        assert share == pytest.approx(100 - percentile, rel=0.2), percentile
    assert (scorer.pixel_levels.diff() >= 0).all()


def test_large_images_give_evenly_spaced_pixels_alone(
    make_scorer: MakeScorer, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.scoring.calibration.PIXELS_PER_IMAGE", 50)
    scorer, image = make_scorer(), make_images(2)
    body = (image > 0).any(dim=1, keepdim=True)
    calibrator = Calibrator(scorer, None, "cpu")  # type: ignore[arg-type]
    _, pixels = calibrator._part_scores(scorer.parts(image), body)
    assert 100 <= len(pixels) < 130


def test_an_absent_head_scores_zero_and_divides_by_nothing(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate
) -> None:
    scorer = calibrate(make_scorer(), make_images(6))
    assert scorer.part_mean[2] == 0 and scorer.part_scale[2] == 1

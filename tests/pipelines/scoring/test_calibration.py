"""Calibration on held-out normal images."""

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from networks import AnomalyScorer
from networks.calibration import N_QUANTILES
from networks.levels import level_at
from networks.pooling import LINEAR_RANGE
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
    calibration = scorer.calibration
    draws, fresh, rates = 400, 200, []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        scores = torch.randn(count + fresh, generator=generator).exp() * 10 - 3
        nothing = torch.zeros_like(scores)
        parts = {"flow": nothing, "recon": scores, "density": nothing}
        calibration.fit_parts({name: value[:count] for name, value in parts.items()})
        fused = scorer.fusion.score({}, scorer.standardized_parts(parts))
        calibration.fit_scores(fused[:count], conformal_rank(count, fpr), fpr)
        found = calibration.standardize(fused[count:])
        rates.append(float((found > calibration.threshold).float().mean()))
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
        maps = scorer.evidence(images).maps
    assert set(found.parts) == {"flow", "recon", "head", "density"}
    for name, value in {"score": found.score, **found.parts}.items():
        # Parts are compressed once standardised.
        plain = value if name == "score" else LINEAR_RANGE * torch.sinh(value / LINEAR_RANGE)
        assert plain.mean().item() == pytest.approx(0, abs=2e-3), name
        assert plain.std().item() == pytest.approx(1, abs=2e-3), name
    moments = scorer.calibration.maps
    assert moments.names == ("flow8", "recon", "head")
    for name, mean, scale in zip(moments.names, moments.mean, moments.scale, strict=True):
        assert maps[name].mean().item() == pytest.approx(mean.item(), rel=1e-4)
        assert maps[name].std().item() == pytest.approx(scale.item(), rel=1e-2)


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
    spread = torch.linspace(0, 1, 9)
    parts = {"flow": torch.full((9,), 4.0), "recon": spread, "density": spread}
    calibration.fit_parts(parts)
    assert calibration.parts.mean[0] == 4 and calibration.parts.scale[0] == 1
    assert (calibration.parts("flow", parts["flow"]) == 0).all()
    found = calibration.fit_scores(torch.full((9,), 4.0), 8, 0.2)
    assert (found == 0).all() and calibration.score_scale == 1


def test_pixels_of_the_body_alone_set_the_pixel_threshold(
    make_scorer: MakeScorer, make_images: MakeImages
) -> None:
    scorer, images = make_scorer(), make_images(10)
    body = torch.zeros(10, 1, 32, 32, dtype=torch.bool)
    body[..., 12:16, :9] = True  # beside and inside what is above 0

    class Told(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"image": images[index], "body": body[index]}

    Calibrator(scorer, torch.utils.data.DataLoader(Told(), 4), "cpu", 0.2, 0.1).run()
    with torch.no_grad():
        pixels = scorer(images)[body]
    assert (images == 0).all(dim=1, keepdim=True)[body].any()
    torch.testing.assert_close(
        scorer.calibration.pixel_levels[0], pixels.min(), atol=1e-4, rtol=1e-4
    )
    share = float((pixels > scorer.calibration.pixel_threshold).float().mean())
    assert 0.08 < share <= 0.1

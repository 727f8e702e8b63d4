"""From an image to an anomaly map and a calibrated score."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.losses.ssim_loss import SSIMLoss
from monai.networks.layers.simplelayers import GaussianFilter
from torch import Tensor

from networks import AnomalyScorer
from networks.scorer import N_QUANTILES, compress, top_mean

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
Calibrate = Callable[[AnomalyScorer, Tensor], AnomalyScorer]

COLUMNS = ("score", "flow_score", "recon_score", "percentile", "flagged", "anomaly_map")


def columns(scorer: AnomalyScorer, image: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        scores = scorer.score_image(image)
    return {name: getattr(scores, name).float() for name in COLUMNS}


@pytest.mark.parametrize(("channels", "size"), [(1, (32, 32)), (3, (32, 64))])
def test_forward_returns_one_map_of_the_images_size(
    make_scorer: MakeScorer, make_images: MakeImages, channels: int, size: tuple[int, int]
) -> None:
    scorer = make_scorer(channels, with_head=True, strides=(8, 16))
    image = make_images(2, channels, *size)
    with torch.no_grad():
        found = scorer(image)
        scores = scorer.score_image(image)
    assert isinstance(found, Tensor) and found.shape == (2, 1, *size)
    assert torch.equal(found, scores.anomaly_map)
    assert set(scores.maps) == {"flow8", "flow16", "recon", "head"} == set(scorer.map_names)
    assert all(part.shape == (2, 1, *size) for part in scores.maps.values())
    assert scores.reconstruction.shape == image.shape
    for name in ("score", "flow_score", "recon_score", "head_score", "percentile", "flagged"):
        assert getattr(scores, name).shape == (2,), name
    assert scores.flagged.dtype == torch.bool


@pytest.mark.parametrize("score", ["fused", "paper"])
def test_a_batch_scores_like_its_images_one_by_one(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate, score: str
) -> None:
    image = make_images(3, seed=1)
    raw, tuned = make_scorer(with_head=True, score=score), make_scorer(with_head=True, score=score)
    # Float noise grows where a part is standardised by its small spread over eight images.
    for scorer, tolerance in ((raw, 1e-5), (calibrate(tuned, make_images(8)), 1e-4)):
        together = columns(scorer, image)
        alone = [columns(scorer, one[None]) for one in image]
        for name in COLUMNS:
            expected = torch.cat([one[name] for one in alone])
            torch.testing.assert_close(together[name], expected, atol=tolerance, rtol=tolerance)


def test_the_residual_is_smoothed(make_scorer: MakeScorer, make_images: MakeImages) -> None:
    scorer, image = make_scorer(smoothing=1.5), make_images(2, 1)
    output = scorer.network(image)
    residual = (image - output.reconstruction).abs().detach()
    expected = GaussianFilter(2, 1.5)(residual)
    torch.testing.assert_close(scorer.parts_of(output, image).maps["recon"], expected)


def test_the_papers_score_by_hand(make_scorer: MakeScorer, make_images: MakeImages) -> None:
    beta = 0.7
    scorer = make_scorer(score="paper", beta=beta, strides=(8, 16))
    scorer.set_input_statistics(torch.tensor([0.3]), torch.tensor([0.2]))
    image = make_images(3)
    with torch.no_grad():
        output = scorer.network((image - 0.3) / 0.2)
        scores = scorer.score_image(image)
    densities = [
        sum(
            -0.5 * z[i].square().sum() - 0.5 * z[i].numel() * math.log(2 * math.pi)
            for z in output.latents
        )
        / sum(z[i].numel() for z in output.latents)
        for i in range(3)
    ]
    restored = (output.reconstruction * 0.2 + 0.3).clamp(0, 1)
    ssim = 1 - SSIMLoss(spatial_dims=2, data_range=1.0, reduction="none")(restored, image).flatten()
    by_hand = beta * -torch.stack(densities) + (1 - beta) * -ssim
    torch.testing.assert_close(scores.score, by_hand, atol=1e-5, rtol=1e-5)


def test_the_papers_score_ignores_the_log_determinant(
    make_scorer: MakeScorer, make_images: MakeImages
) -> None:
    scorer = make_scorer(score="paper")
    output = scorer.network(make_images(2))
    shifted = output._replace(log_dets=[log_det + 100 for log_det in output.log_dets])
    plain, moved = (scorer.parts_of(one, make_images(2)) for one in (output, shifted))
    torch.testing.assert_close(plain.latent_nll, moved.latent_nll)
    assert (moved.maps["flow8"] < plain.maps["flow8"]).all()


def test_percentile_rises_from_0_to_100(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate
) -> None:
    scorer = calibrate(make_scorer(), make_images(12))
    low, high = scorer.quantiles[[0, -1]].tolist()
    found = scorer.percentile(torch.linspace(low - 1, high + 1, 200))
    assert (found.diff() >= 0).all()
    assert found[0] == 0.0 and found[-1] == 100.0
    assert scorer.percentile(torch.tensor([high])).item() == 100.0  # no normal scored higher
    middle = scorer.quantiles[N_QUANTILES // 2]
    assert scorer.percentile(middle[None]).item() == pytest.approx(50, abs=0.1)


def test_flagged_means_above_the_threshold(
    make_scorer: MakeScorer, make_images: MakeImages
) -> None:
    scorer, image = make_scorer(), make_images(3)
    assert not scorer.score_image(image).flagged.any()  # nothing is before a calibration
    ordered = scorer.score_image(image).score.sort().values
    scorer.threshold.copy_(ordered[1])
    assert int(scorer.score_image(image).flagged.sum()) == 1


def test_the_state_dict_carries_the_calibration(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate
) -> None:
    scorer = calibrate(make_scorer(with_head=True), make_images(8))
    again = make_scorer(with_head=True)
    assert not again.calibrated and scorer.calibrated
    again.load_state_dict(scorer.state_dict())
    image = make_images(2, seed=1)
    expected = columns(scorer, image)
    for name, value in columns(again, image).items():
        assert torch.equal(value, expected[name]), name
    assert again.calibrated and float(again.target_fpr) == pytest.approx(0.2)


@pytest.mark.parametrize("with_head", [True, False])
def test_fused_is_the_weighted_sum_of_its_parts(
    make_scorer: MakeScorer, make_images: MakeImages, with_head: bool
) -> None:
    scorer = make_scorer(with_head=with_head, beta=0.8, head_weight=0.25, map_head_weight=0.9)
    with torch.no_grad():
        found = scorer.score_image(make_images(3))
    unsupervised = 0.8 * found.flow_score + 0.2 * found.recon_score
    on_map = 0.8 * found.maps["flow8"] + 0.2 * found.maps["recon"]
    assert (found.head_score is not None) == with_head
    if found.head_score is not None:
        unsupervised = 0.75 * unsupervised + 0.25 * found.head_score
        on_map = 0.1 * on_map + 0.9 * found.maps["head"]
    torch.testing.assert_close(found.score, unsupervised)
    torch.testing.assert_close(found.anomaly_map, on_map)


@pytest.mark.parametrize("score", ["flow", "recon", "head"])
def test_a_single_part_can_be_the_score(
    make_scorer: MakeScorer, make_images: MakeImages, score: str
) -> None:
    found = make_scorer(with_head=True, score=score).score_image(make_images(2))
    assert torch.equal(found.score, getattr(found, f"{score}_score"))


def test_several_strides_are_averaged(make_scorer: MakeScorer, make_images: MakeImages) -> None:
    scorer = make_scorer(strides=(8, 16), score="flow", flow_pool=0.3)
    found = scorer.score_image(make_images(2))
    mean = (found.maps["flow8"] + found.maps["flow16"]) / 2
    torch.testing.assert_close(found.flow_score, compress(top_mean(mean, 0.3)))
    assert len(scorer.parts(make_images(2)).maps) == 3


def test_maps_are_standardised_and_compressed(
    make_scorer: MakeScorer, make_images: MakeImages
) -> None:
    scorer, image = make_scorer(), make_images(2)
    scorer.map_mean.copy_(torch.tensor([1.0, 0.5]))
    scorer.map_scale.copy_(torch.tensor([0.1, 2.0]))
    with torch.no_grad():
        raw, found = scorer.parts(image).maps, scorer.score_image(image).maps
    torch.testing.assert_close(found["recon"], compress((raw["recon"] - 0.5) / 2))
    flow = torch.nn.functional.interpolate(
        compress((raw["flow8"] - 1) / 0.1), size=(32, 32), mode="bilinear"
    )
    torch.testing.assert_close(found["flow8"], flow)


def test_compression_keeps_ordinary_values_and_all_orders() -> None:
    value = torch.linspace(-1e4, 1e4, 2001)
    found = compress(value)
    assert (found.diff() > 0).all() and found.abs().max() < 30
    torch.testing.assert_close(found, -compress(-value))
    small = torch.linspace(-1, 1, 11)
    torch.testing.assert_close(compress(small), small, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score": "best"}, "score: expected one of 'fused'"),
        ({"score": "head"}, "needs a network with a detection head"),
        ({"beta": 1.5}, "beta: expected a weight in"),
        ({"head_weight": -0.1}, "head_weight: expected a weight in"),
        ({"map_head_weight": 2}, "map_head_weight: expected a weight in"),
        ({"flow_pool": 0.0}, "flow_pool: expected a share in"),
        ({"head_pool": 1.01}, "head_pool: expected a share in"),
    ],
)
def test_settings_out_of_range_are_refused(
    make_scorer: MakeScorer, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_scorer(**settings)


def test_top_mean_is_the_mean_of_the_highest_positions() -> None:
    value = torch.arange(20.0).reshape(2, 1, 2, 5)
    assert torch.equal(top_mean(value, 0.2), torch.tensor([8.5, 18.5]))
    assert torch.equal(top_mean(value, 1.0), torch.tensor([4.5, 14.5]))
    assert torch.equal(top_mean(value, 0.001), torch.tensor([9.0, 19.0]))  # at least one


def test_training_mode_changes_no_score(make_scorer: MakeScorer, make_images: MakeImages) -> None:
    scorer, image = make_scorer(with_head=True), make_images(3)
    expected = columns(scorer, image)
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    found = columns(scorer.train(), image)
    for name in COLUMNS:
        torch.testing.assert_close(found[name], expected[name])
    assert all(torch.equal(value, before[name]) for name, value in scorer.state_dict().items())


def test_input_statistics_standardise_the_images(
    make_scorer: MakeScorer, make_images: MakeImages
) -> None:
    scorer, image = make_scorer(2), make_images(6, 2)
    scorer.set_input_statistics(image.mean((0, 2, 3)), image.std((0, 2, 3)))
    found = scorer.normalize(image)
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3)), torch.ones(2), atol=1e-5, rtol=0)
    scorer.set_input_statistics(torch.zeros(2), torch.zeros(2))  # a constant channel
    assert torch.isfinite(scorer.normalize(image)).all()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_and_exported_modules_take_other_batch_sizes(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate
) -> None:
    scorer = calibrate(make_scorer(), make_images(8))
    image = make_images(3, seed=1)
    with torch.no_grad():
        expected = scorer(image)
        traced = torch.jit.trace(scorer, image[:2])
        batch = torch.export.Dim("batch", min=1, max=64)
        exported = torch.export.export(scorer, (image[:2],), dynamic_shapes=({0: batch},))
        torch.testing.assert_close(traced(image), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(exported.module()(image), expected, atol=1e-5, rtol=1e-4)

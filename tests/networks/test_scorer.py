"""From an image to an anomaly map and a calibrated score."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from networks import AnomalyScorer, make_fusion
from networks.calibration import KNOTS, N_QUANTILES
from networks.errors import ArgumentError
from networks.normative import NormativeMap
from networks.pooling import BOUND, bounded, compress, top_mean

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
Calibrate = Callable[[AnomalyScorer, Tensor], AnomalyScorer]

COLUMNS = ("score", "percentile", "flagged", "anomaly_map")


def columns(scorer: AnomalyScorer, image: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        scores = scorer.score_image(image)
    found = {name: getattr(scores, name).float() for name in COLUMNS}
    return found | {f"{name} part": value for name, value in scores.parts.items()}


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
    assert set(scorer.map_names) == {"flow8", "flow16", "recon", "head"}
    assert set(scores.maps) == {"flow", "recon", "head"}
    assert all(part.shape == (2, 1, *size) for part in scores.maps.values())
    assert scores.reconstruction.shape == image.shape
    assert list(scores.parts) == ["flow", "recon", "head", "density"]
    for value in (scores.score, *scores.parts.values(), scores.percentile, scores.flagged):
        assert value.shape == (2,)
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
        for name, value in together.items():
            expected = torch.cat([one[name] for one in alone])
            torch.testing.assert_close(value, expected, atol=tolerance, rtol=tolerance)


def test_percentile_rises_from_0_to_100(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate
) -> None:
    scorer = calibrate(make_scorer(), make_images(12))
    low, high = scorer.calibration.quantiles[[0, -1]].tolist()
    found = scorer.percentile(torch.linspace(low - 1, high + 1, 200))
    assert (found.diff() >= 0).all()
    assert found[0] == 0.0 and found[-1] == 100.0
    assert scorer.percentile(torch.tensor([high])).item() == 100.0  # no normal scored higher
    middle = scorer.calibration.quantiles[N_QUANTILES // 2]
    assert scorer.percentile(middle[None]).item() == pytest.approx(50, abs=0.1)


def test_flagged_means_above_the_threshold(
    make_scorer: MakeScorer, make_images: MakeImages
) -> None:
    scorer, image = make_scorer(), make_images(3)
    assert not scorer.score_image(image).flagged.any()  # nothing is before a calibration
    ordered = scorer.score_image(image).score.sort().values
    scorer.calibration.threshold.copy_(ordered[1])
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
    assert again.calibrated and float(again.calibration.target_fpr) == pytest.approx(0.2)


@pytest.mark.parametrize("with_head", [True, False])
def test_fused_is_the_weighted_mean_of_its_parts(
    make_scorer: MakeScorer, make_images: MakeImages, with_head: bool
) -> None:
    weights = {"flow": 6.0, "recon": 1.5, "head": 2.5}
    on_map = {"flow": 0.08, "recon": 0.02, "head": 0.9}
    scorer = make_scorer(with_head=with_head, weights=weights, map_weights=on_map)
    with torch.no_grad():
        found = scorer.score_image(make_images(3))
    assert ("head" in found.parts) == with_head
    maps = {name: bounded(value) for name, value in found.maps.items()}
    if with_head:
        score = 0.6 * found.parts["flow"] + 0.15 * found.parts["recon"] + 0.25 * found.parts["head"]
        fused = 0.08 * maps["flow"] + 0.02 * maps["recon"] + 0.9 * maps["head"]
    else:
        score = 0.8 * found.parts["flow"] + 0.2 * found.parts["recon"]
        fused = 0.8 * maps["flow"] + 0.2 * maps["recon"]
    torch.testing.assert_close(found.score, score)
    torch.testing.assert_close(found.anomaly_map, fused)


def test_parts_that_training_decided_are_taken_anew(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate
) -> None:
    weights = {"flow": 3.0, "bright": 1.0}
    scorer = make_scorer(weights=weights, map_weights=weights)
    before = ["flow", "recon", "density"]
    assert list(scorer.parts) == before and scorer.fusion.config["weights"] == {"flow": 3.0}
    scorer.detector.normative = NormativeMap(1)
    scorer.detector.normative.std.fill_(0.5)
    assert list(scorer.parts) == before
    scorer.reset()
    parts = ("flow", "recon", "bright", "dark", "density", "local")
    assert tuple(scorer.parts) == parts == scorer.calibration.parts.names
    assert scorer.map_names == ("flow8", "recon", "bright", "dark") == scorer.calibration.maps.names
    assert scorer.fusion.config["weights"] == weights == scorer.fusion.config["map_weights"]
    image = make_images(3)
    context = {"body": image > 0, "place": torch.rand(3, 65)}
    with torch.no_grad():
        found = scorer.score_image(image, context)
    torch.testing.assert_close(
        found.score, 0.75 * found.parts["flow"] + 0.25 * found.parts["bright"]
    )
    fused = 0.75 * bounded(found.maps["flow"]) + 0.25 * bounded(found.maps["bright"])
    torch.testing.assert_close(found.anomaly_map, fused)


def test_what_is_taken_anew_is_not_calibrated(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate
) -> None:
    scorer = calibrate(make_scorer(), make_images(6))
    assert scorer.calibrated
    scorer.reset()
    assert not scorer.calibrated
    scorer.fusion = make_fusion("bright", map_weights={"flow": 1.0})
    with pytest.raises(ArgumentError, match="score: expected one of .*'density'"):
        scorer.reset()


@pytest.mark.parametrize("score", ["flow", "recon", "head", "density"])
def test_a_single_part_can_be_the_score(
    make_scorer: MakeScorer, make_images: MakeImages, score: str
) -> None:
    found = make_scorer(with_head=True, score=score).score_image(make_images(2))
    assert torch.equal(found.score, found.parts[score])


def test_several_strides_are_averaged(make_scorer: MakeScorer, make_images: MakeImages) -> None:
    scorer = make_scorer(strides=(8, 16), score="flow", flow_pool=0.3)
    image = make_images(2)
    with torch.no_grad():
        maps = scorer.standardized_maps(scorer.evidence(image), image)
        found = scorer.score_image(image)
    mean = (maps["flow8"] + maps["flow16"]) / 2
    torch.testing.assert_close(found.maps["flow"], mean)
    torch.testing.assert_close(found.parts["flow"], compress(top_mean(mean, 0.3)))
    assert len(scorer.evidence(make_images(2)).maps) == 3


def test_maps_are_standardised_and_compressed(
    make_scorer: MakeScorer, make_images: MakeImages
) -> None:
    scorer, image = make_scorer(), make_images(2)
    knots = torch.tensor(KNOTS)
    scorer.calibration.maps.levels.copy_(torch.stack([1 + 0.1 * knots, 0.5 + 2 * knots]))
    with torch.no_grad():
        raw, found = scorer.evidence(image).maps, scorer.score_image(image).maps
    torch.testing.assert_close(found["recon"], compress((raw["recon"] - 0.5) / 2))
    flow = torch.nn.functional.interpolate(
        compress((raw["flow8"] - 1) / 0.1), size=(32, 32), mode="bilinear"
    )
    torch.testing.assert_close(found["flow"], flow)


def test_a_part_without_a_map_of_its_own_may_pool_the_fused_one(
    make_scorer: MakeScorer, make_images: MakeImages
) -> None:
    weights: dict[str, Any] = {"weights": {"local": 1.0}, "map_weights": {"recon": 1.0}}
    scorer = make_scorer(**weights, map_pool=0.25, normative=True)
    with torch.no_grad():
        found = scorer.score_image(make_images(2))
    assert set(found.parts) > {"local", "flow"}
    torch.testing.assert_close(found.parts["local"], compress(top_mean(found.anomaly_map, 0.25)))
    torch.testing.assert_close(found.score, found.parts["local"])
    assert "local" not in make_scorer().parts


def test_no_map_outweighs_the_others(make_scorer: MakeScorer) -> None:
    weights = {"flow": 1.0, "head": 1.0}
    scorer = make_scorer(with_head=True, weights=weights, map_weights=weights)
    maps = {name: torch.zeros(1, 1, 4, 4) for name in scorer.map_names}
    maps["flow8"] += torch.linspace(0.0, 24.0, 16).view(1, 1, 4, 4)
    fused = scorer.fuse_maps(maps)
    assert fused.max() < BOUND / 2 and (fused.flatten().diff() > 0).all()
    maps["head"] += 3.0
    assert scorer.fuse_maps(maps).min() > 1.3


def test_compression_keeps_ordinary_values_and_all_orders() -> None:
    value = torch.linspace(-1e4, 1e4, 2001)
    found = compress(value)
    assert (found.diff() > 0).all() and found.abs().max() < 30
    torch.testing.assert_close(found, -compress(-value))
    small = torch.linspace(-1, 1, 11)
    torch.testing.assert_close(compress(small), small, atol=0.02, rtol=0)


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
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])
    assert all(torch.equal(value, before[name]) for name, value in scorer.state_dict().items())


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

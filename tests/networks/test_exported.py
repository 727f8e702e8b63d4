"""The scorer in the form that is exported."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from networks import AnomalyScorer
from networks.exported import OUTPUTS, ExportedScorer

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
Calibrate = Callable[[AnomalyScorer, Tensor], AnomalyScorer]


@pytest.fixture
def scorer(make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate) -> AnomalyScorer:
    return calibrate(make_scorer(with_head=True, strides=(8, 16)), make_images(8))


@pytest.fixture
def exported(scorer: AnomalyScorer) -> ExportedScorer:
    return ExportedScorer(scorer, (32, 32))


def trace(module: ExportedScorer, image: Tensor) -> Any:
    with pytest.warns(torch.jit.TracerWarning), torch.no_grad():
        return torch.jit.trace(module, image)


def assert_scores_alike(scorer: AnomalyScorer, found: tuple[Tensor, ...], image: Tensor) -> None:
    with torch.no_grad():
        expected = scorer.score_image(image)
    for name, value in zip(OUTPUTS, found, strict=True):
        wanted = getattr(expected, name)
        assert value.dtype == wanted.dtype, name
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("score", ["fused", "paper", "recon"])
def test_the_outputs_are_the_scorer_s(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate, score: str
) -> None:
    scorer = calibrate(make_scorer(score=score), make_images(8))
    image = make_images(5, seed=1)
    found = ExportedScorer(scorer, (32, 32))(image)
    assert [tuple(value.shape) for value in found] == [(5, 1, 32, 32), (5,), (5,), (5,)]
    assert found[3].dtype == torch.bool
    assert_scores_alike(scorer, found, image)


def test_all_of_it_moves_with_it(exported: ExportedScorer) -> None:
    moved = exported.to("meta")
    plain = (v for part in moved.modules() for v in vars(part).values() if isinstance(v, Tensor))
    devices = [one.device.type for one in (*plain, *moved.state_dict().values())]
    assert set(devices) == {"meta"} and len(devices) > len(moved.state_dict())


def test_percentiles_are_counted_as_they_are_searched(
    scorer: AnomalyScorer, exported: ExportedScorer
) -> None:
    low, high = scorer.calibration.quantiles[[0, -1]].tolist()
    ends = torch.tensor([low, high, float("nan"), float("inf"), -float("inf")])
    score = torch.cat(
        [torch.linspace(low - 1, high + 1, 300), scorer.calibration.quantiles[::100], ends]
    )
    assert torch.equal(exported.percentile(score), scorer.percentile(score))


def test_the_state_dict_is_the_scorer_s_and_shares_nothing(
    scorer: AnomalyScorer, exported: ExportedScorer
) -> None:
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    assert set(exported.state_dict()) == set(before)
    assert any(parameter.requires_grad for parameter in scorer.parameters())
    assert not any(parameter.requires_grad for parameter in exported.parameters())
    with torch.no_grad():
        for value in exported.state_dict().values():
            value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in scorer.state_dict().items())


@pytest.mark.parametrize("score", ["fused", "paper"])
def test_a_trace_takes_any_batch_size(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate, score: str
) -> None:
    scorer = calibrate(
        make_scorer(3, with_head=score == "fused", score=score), make_images(8, 3, 32, 48)
    )
    traced = trace(ExportedScorer(scorer, (32, 48)), make_images(2, 3, 32, 48))
    assert set(traced.state_dict()) == set(scorer.state_dict())
    traced.load_state_dict(scorer.state_dict())
    for count in (1, 2, 5):
        image = make_images(count, 3, 32, 48, seed=count)
        assert_scores_alike(scorer, traced(image), image)


def test_another_image_size_is_refused(exported: ExportedScorer, make_images: MakeImages) -> None:
    traced = trace(exported, make_images(2))
    for module in (exported, traced):
        for image in (make_images(1, 1, 64, 64), make_images(1)[0]):
            with pytest.raises((ValueError, torch.jit.Error), match="expected shape .B, C, 32, 32"):
                module(image)


def test_only_a_calibrated_scorer_of_a_plane_is_exported(
    scorer: AnomalyScorer, make_scorer: MakeScorer
) -> None:
    with pytest.raises(ValueError, match="calibrate it before exporting"):
        ExportedScorer(make_scorer(), (32, 32))
    with pytest.raises(ValueError, match="expected height and width"):
        ExportedScorer(scorer, (32, 32, 32))


def test_a_detector_that_needs_more_than_the_image_gets_it(
    make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate
) -> None:
    weights = {"flow": 0.5, "bright": 0.5}
    scorer = make_scorer(normative=True, weights=weights, map_weights=weights)
    exported = ExportedScorer(calibrate(scorer, make_images(8)), (32, 32))
    assert exported.inputs == ("image", "body", "place")
    example = make_images(2), make_images(2) > 0.3, torch.rand(2, 65)
    with pytest.warns(torch.jit.TracerWarning), torch.no_grad():
        traced = torch.jit.trace(exported, example)
    image, body, place = make_images(5, seed=1), make_images(5, seed=2) > 0.3, torch.rand(5, 65)
    with torch.no_grad():
        expected = scorer.score_image(image, {"body": body, "place": place})
        elsewhere = scorer.score_image(image, {"body": body, "place": place.flip(0)})
    assert not torch.allclose(expected.score, elsewhere.score, atol=1e-2)
    for module in (exported, traced):
        for name, value in zip(OUTPUTS, module(image, body, place), strict=True):
            torch.testing.assert_close(value, getattr(expected, name), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="zip"):
        exported(image, body)

"""Several detectors as one: their mean, and how far they disagree."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from networks import DETECTORS, AnomalyScorer, Detector, Inputs, make_fusion
from networks.errors import ArgumentError
from networks.normative import NormativeMap

MakeImages = Callable[..., Tensor]
Calibrate = Callable[[AnomalyScorer, Tensor], AnomalyScorer]
TINY: dict[str, Any] = {
    "flow_strides": (8,), "flow_steps": 1, "hidden": 8, "decoder_width": 4, "with_head": True,
    "normative": False,
}  # fmt: skip


def ensemble(size: int = 3, **options: Any) -> Any:
    return DETECTORS["ensemble"](member="aeflow", ensemble=size, **(TINY | options)).eval()


def scorer_of(detector: Detector, score: str = "fused") -> AnomalyScorer:
    return AnomalyScorer(detector, make_fusion(score)).eval()


@pytest.mark.parametrize("score", ["fused", "paper", "head", "density"])
def test_its_scores_are_those_of_its_members(
    make_images: MakeImages, calibrate: Calibrate, score: str
) -> None:
    scorer = calibrate(scorer_of(ensemble(), score), make_images(8))
    image = make_images(3, seed=1)
    with torch.no_grad():
        found = scorer.score_image(image)
        evidence = scorer.evidence(image)
        members = [
            one.evidence(one(Inputs(image)), Inputs(image)) for one in scorer.detector.detectors
        ]
        maps = scorer.standardized_maps(evidence, image)
    for number, one in enumerate(members, 1):
        torch.testing.assert_close(evidence.maps[f"head@{number}"], one.maps["head"])
        torch.testing.assert_close(evidence.values[f"density@{number}"], one.values["density"])
    mean = torch.stack([one.values["density"] for one in members]).mean(dim=0)
    torch.testing.assert_close(evidence.values["density"], mean)
    heads = [maps[f"head@{number}"] for number in (1, 2, 3)]
    torch.testing.assert_close(found.maps["head"], torch.stack(heads).mean(dim=0))
    assert found.members.shape == (3, 3) and found.members.std(dim=1).min() > 0
    assert found.std_map.shape == found.anomaly_map.shape and found.std_map.max() > 0
    with torch.no_grad():
        raw = scorer.fused_members(scorer.of_members(evidence, maps))
    if score == "density":
        alone = torch.stack(
            [scorer.calibration.parts("density", m.values["density"]) for m in members]
        )
        torch.testing.assert_close(raw, alone.T)
    if score == "paper":
        latent = [0.9 * m.values["latent"] + 0.1 * m.values["recon"] for m in members]
        torch.testing.assert_close(raw, torch.stack(latent, dim=1))


def test_members_are_standardised_on_held_out_normals(
    make_images: MakeImages, calibrate: Calibrate
) -> None:
    normal = make_images(8)
    scorer = calibrate(scorer_of(ensemble(), "paper"), normal)
    with torch.no_grad():
        found = scorer.score_image(normal).members
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(dim=0), torch.ones(3), atol=1e-4, rtol=0)


def test_equal_members_agree(make_images: MakeImages, calibrate: Calibrate) -> None:
    detector = ensemble()
    alone = calibrate(scorer_of(copy.deepcopy(detector.detectors[0])), make_images(8))
    for one in detector.detectors:
        one.load_state_dict(alone.detector.state_dict())
    scorer, image = calibrate(scorer_of(detector), make_images(8)), make_images(3, seed=1)
    with torch.no_grad():
        found, expected = scorer.score_image(image), alone.score_image(image)
    torch.testing.assert_close(found.score, expected.score, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.anomaly_map, expected.anomaly_map, atol=1e-4, rtol=1e-4)
    assert found.members.std(dim=1).max() < 1e-4 and found.std_map.max() < 1e-4
    assert expected.members is None and expected.std_map is None


def test_it_trains_all_members(make_images: MakeImages) -> None:
    detector, inputs = ensemble(), Inputs(make_images(4))
    mask = (inputs.image > 0.5).float()
    for one in detector.detectors:
        one.network.encoder.unfreeze()
    for stage in detector.stages:
        terms = detector.loss(detector(inputs, None, stage.name), inputs, stage.name, mask)
        alone = [
            one.loss(one(inputs, None, stage.name), inputs, stage.name, mask)["loss"]
            for one in detector.detectors
        ]
        torch.testing.assert_close(terms["loss"], torch.stack(alone).mean())
        group = stage.groups["loss"]
        gradients = torch.autograd.grad(terms["loss"], group, allow_unused=True)
        assert len(group) == len(set(group)) and all(one is not None for one in gradients)
    features = detector.encode(inputs)
    with torch.no_grad():
        whole, cached = detector(inputs), detector(inputs, features)
    for one, other in zip(whole.members, cached.members, strict=True):
        torch.testing.assert_close(one.latents, other.latents)


def test_the_first_gives_what_the_data_decide_alone() -> None:
    detector = ensemble(normative=None)
    first = detector.detectors[0]
    first.normative, first.config["normative"] = NormativeMap(1), True  # as `prepare` decides
    scorer = scorer_of(detector)
    assert detector.needs == ("body", "place")
    assert scorer.parts["bright"].maps == ("bright",)
    assert scorer.parts["head"].maps == ("head@1", "head@2", "head@3")
    rebuilt = DETECTORS["ensemble"](**detector.config)
    assert {n: v.shape for n, v in rebuilt.state_dict().items()} == {
        n: v.shape for n, v in detector.state_dict().items()
    }


def test_mistakes_are_told() -> None:
    with pytest.raises(ArgumentError, match="ensemble: expected at least 2, got 1"):
        ensemble(1)
    with pytest.raises(ArgumentError, match="member: expected one of .*'aeflow'.*, got 'aeflo'"):
        DETECTORS["ensemble"](member="aeflo")

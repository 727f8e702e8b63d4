"""AE-FLOW behind the contract: its evidence, its losses and its stages."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.losses.ssim_loss import SSIMLoss
from monai.networks.layers.simplelayers import GaussianFilter
from torch import Tensor
from torch.nn import functional as F

from networks import (
    DETECTORS,
    AEFlow,
    AnomalyScorer,
    Decoder,
    Detector,
    Encoder,
    Inputs,
    NormalizingFlow,
    WeightedFusion,
)
from networks.aeflow import pool_features
from networks.contrast import LIMIT, gaussian_blur, local_contrast
from networks.density import GaussianDensity
from networks.detectors.aeflow import BLURS, AEFlowDetector, HeadOutput, _spread_sigmas
from networks.errors import ArgumentError
from networks.loss import AEFlowLoss
from networks.normative import by_case
from networks.pooling import top_mean

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
SMALL: dict[str, Any] = {"flow_strides": (8,), "flow_steps": 1, "hidden": 8, "decoder_width": 4}


class Images:
    """Batches of given images, with what goes with them."""

    def __init__(self, images: Tensor, size: int = 3, **context: Tensor) -> None:
        self.images = images
        self.size = size
        self.context = context

    def __iter__(self) -> Any:
        starts = range(0, len(self.images), self.size)
        return (self._from(slice(start, start + self.size)) for start in starts)

    def spread(self, count: int) -> Inputs:
        return self._from(slice(count))

    def _from(self, rows: slice) -> Inputs:
        context = {name: value[rows] for name, value in self.context.items()}
        return Inputs(self.images[rows], context)


def volumes(patients: int = 4, shift: float = 0.0, size: int = 3) -> Images:
    """Batches of patients of five slices each, the bodies of whom lie apart by a shift."""
    line, along = torch.linspace(-1, 1, 32), torch.linspace(0.3, 0.7, 5)
    within = ((line + 1) / 2).repeat(2).expand(5, -1)
    place = torch.cat([along[:, None], within], dim=1).repeat(patients, 1)
    lie = [shift * (one - (patients - 1) / 2) for one in range(patients)]
    body = torch.stack([(line[:, None] - a).square() + line.square() < 0.3 for a in lie])
    body = body.repeat_interleave(5, dim=0)[:, None]
    case = torch.arange(patients).repeat_interleave(5)
    images = (0.3 + 0.05 * torch.rand(body.shape)) * body
    return Images(images, size, place=place, body=body, case=case)


def test_the_residual_is_smoothed(make_scorer: MakeScorer, make_images: MakeImages) -> None:
    detector, image = make_scorer(smoothing=1.5).detector, make_images(2, 1)
    output = detector(Inputs(image))
    residual = (image - output.reconstruction).abs().detach()
    expected = GaussianFilter(2, 1.5)(residual)
    found = detector.evidence(output, Inputs(image)).maps["recon"]
    torch.testing.assert_close(found, expected)


def test_the_papers_score_by_hand(make_scorer: MakeScorer, make_images: MakeImages) -> None:
    beta = 0.7
    scorer = make_scorer(score="paper", beta=beta, strides=(8, 16))
    scorer.detector.input_mean.fill_(0.3)
    scorer.detector.input_std.fill_(0.2)
    image = make_images(3)
    with torch.no_grad():
        output = scorer.detector.network((image - 0.3) / 0.2)
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
    detector, inputs = make_scorer().detector, Inputs(make_images(2))
    output = detector(inputs)
    shifted = output._replace(log_dets=[log_det + 100 for log_det in output.log_dets])
    plain, moved = (detector.evidence(one, inputs) for one in (output, shifted))
    torch.testing.assert_close(plain.values["latent"], moved.values["latent"])
    assert (moved.maps["flow8"] < plain.maps["flow8"]).all()


def test_input_statistics_standardise_the_images(make_images: MakeImages) -> None:
    images = make_images(7, 2)
    detector = AEFlowDetector(in_channels=2, **SMALL)
    Detector.prepare(detector, Images(images), None)
    found = detector.normalize(images)
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3)), torch.ones(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(detector.restore(found, images), images)
    Detector.prepare(detector, Images(torch.zeros(2, 2, 32, 32)), None)  # a constant channel
    assert torch.isfinite(detector.normalize(images)).all()


def test_pretraining_comes_first_and_only_with_a_head() -> None:
    assert [s.name for s in AEFlowDetector(**SMALL).stages] == ["train"]
    first, second = AEFlowDetector(with_head=True, **SMALL).stages
    assert (first.name, first.synthetic, first.cached) == ("pretrain", True, False)
    assert (second.name, second.synthetic, second.cached) == ("train", False, True)
    assert not {id(p) for p in first.groups["loss"]} & {id(p) for p in second.groups["loss"]}


def test_the_encoder_learns_in_pretraining_alone(make_images: MakeImages) -> None:
    detector, images = AEFlowDetector(with_head=True, **SMALL), Images(make_images(6))
    frozen = []
    for stage in ("pretrain", "train", None):
        detector.prepare(images, stage)
        frozen.append(detector.network.encoder.frozen)
    assert frozen == [False, True, True]
    for flow in detector.network.flows:
        assert bool(flow.steps[0].actnorm.bias.abs().sum() > 0)  # initialised from the images


def test_the_losses_are_the_paper_s_and_the_masks_cross_entropy(make_images: MakeImages) -> None:
    detector, inputs = AEFlowDetector(with_head=True, alpha=0.3, **SMALL), Inputs(make_images(2))
    terms = detector.loss(detector(inputs), inputs, "train")
    expected = AEFlowLoss(0.3).terms(detector(inputs), inputs.image)
    torch.testing.assert_close(list(terms.values()), list(expected))
    mask = torch.zeros(2, 1, 32, 32)
    mask[0, :, :12, :8] = 1.0
    output = detector(inputs, stage="pretrain")
    cover = F.avg_pool2d(mask, 8)
    found = detector.loss(output, inputs, "pretrain", mask)["loss"]
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(output.head, cover))
    with pytest.raises(ValueError, match="mask: pre-training needs"):
        detector.loss(output, inputs, "pretrain")


def test_the_mask_is_compared_at_the_heads_resolution() -> None:
    detector = AEFlowDetector(with_head=True, **SMALL)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :4, :8] = 1  # half of the first of four positions

    def loss(logits: Tensor) -> float:
        inputs = Inputs(torch.zeros(1, 1, 16, 16))
        return detector.loss(HeadOutput(logits), inputs, "pretrain", mask)["loss"].item()

    assert loss(torch.zeros(1, 1, 2, 2)) == pytest.approx(math.log(2))
    sure = torch.tensor([[[[0.0, -20.0], [-20.0, -20.0]]]])
    assert loss(sure) == pytest.approx(math.log(2) / 4, rel=1e-4)


def test_its_config_rebuilds_it(make_images: MakeImages) -> None:
    detector = AEFlowDetector(with_head=True, flow_pool=0.3, smoothing=1.0, **SMALL)
    twin = DETECTORS[detector.name](**detector.config)
    assert twin.config == detector.config
    twin.load_state_dict(detector.state_dict())
    inputs = Inputs(make_images(2))
    detector.eval(), twin.eval()
    expected = detector.evidence(detector(inputs), inputs)
    found = twin.evidence(twin(inputs), inputs)
    torch.testing.assert_close(found.maps, expected.maps)
    torch.testing.assert_close(found.values, expected.values)


def test_a_network_assembled_by_hand_is_scored(make_images: MakeImages) -> None:
    encoder = Encoder("resnet18", in_channels=2, strides=(8,))
    flow = NormalizingFlow(encoder.channels[0], 1, hidden=8)
    network = AEFlow(encoder, [flow], Decoder(encoder.channels[0], 2, 8, 4), (8,))
    assert network.config is None
    detector = AEFlowDetector(network)
    assert detector.in_channels == 2
    fusion = WeightedFusion({"flow": 1.0}, {"recon": 1.0})
    found = AnomalyScorer(detector, fusion).eval().score_image(image := make_images(3, 2))
    assert found.score.shape == (3,) and torch.isfinite(found.score).all()
    assert found.anomaly_map.shape == (3, 1, 32, 32)
    assert found.reconstruction is not None and found.reconstruction.shape == image.shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flow_pool": 0.0}, "flow_pool: expected a share in"),
        ({"head_pool": 1.01}, "head_pool: expected a share in"),
        ({"alpha": 2}, "alpha: expected a number in"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AEFlowDetector(**SMALL, **settings)


def test_a_reconstruction_comes_back_with_the_local_contrast_of_its_image(
    make_images: MakeImages,
) -> None:
    images = make_images(6)
    detector = AEFlowDetector(contrast="local", **SMALL)
    assert DETECTORS["aeflow"](**detector.config).contrast == "local"
    Detector.prepare(detector, Images(images), None)
    seen = detector.normalize(images)
    torch.testing.assert_close(seen.std(), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert not torch.allclose(seen, detector.normalize(0.5 * images), atol=0.5)
    inside = local_contrast(images).abs() < LIMIT
    torch.testing.assert_close(detector.restore(seen, images)[inside], images[inside])
    with pytest.raises(ArgumentError, match="contrast: expected one of 'none', 'local'"):
        AEFlowDetector(contrast="loca", **SMALL)


def test_the_density_is_of_the_pooled_features_and_hardly_sees_blur(
    make_images: MakeImages,
) -> None:
    images = make_images(40) + 0.05 * torch.randn(40, 1, 32, 32)
    detector = AEFlowDetector(**SMALL).eval()
    detector.prepare(Images(images), "train")
    detector.prepare(Images(images), None)
    with torch.no_grad():
        pooled = pool_features(detector.encode(Inputs(images)))
        inputs = Inputs(images)
        found = detector.evidence(detector(inputs), inputs).values["density"]
        torch.testing.assert_close(found, detector.density(pooled))
        torch.testing.assert_close(detector.density.mean, pooled.mean(dim=0))
        blurred = Inputs(gaussian_blur(images, 0.2))
        moved = pool_features(detector.encode(blurred)) - pooled
        plain = GaussianDensity(pooled.shape[1])
        plain.fit(pooled, torch.zeros_like(moved))
        rise = (detector.density(pooled + moved) - detector.density(pooled)).mean()
        assert rise < 0.5 * (plain(pooled + moved) - plain(pooled)).mean()


def test_blurs_are_spread_over_their_range() -> None:
    found = _spread_sigmas(range(100), torch.zeros(1, 1, 112, 224)).log()
    low, high = (math.log(0.5 * sigma) for sigma in BLURS)
    shares = ((found - low) / (high - low)).sort().values
    torch.testing.assert_close(shares, torch.linspace(0, 1, 100), atol=0.03, rtol=0)


def test_volumes_get_a_normative_map_and_its_parts() -> None:
    detector, batches = AEFlowDetector(**SMALL).eval(), volumes()
    assert [part.name for part in detector.parts] == ["flow", "recon", "density"]
    for stage in ("train", None):
        assert detector.needs == () and detector.config["normative"] is None
        detector.prepare(batches, stage)
    assert detector.config["normative"] is True and detector.needs == ("body", "place")
    names = ["flow", "recon", "bright", "dark", "density", "local"]
    assert [part.name for part in detector.parts] == names
    twin = DETECTORS["aeflow"](**detector.config).eval()
    twin.load_state_dict(detector.state_dict())
    inputs = batches.spread(5)
    spot = torch.zeros(32, 32, dtype=torch.bool)
    spot[14:18, 14:18] = True
    inputs = inputs._replace(image=torch.where(spot, 0.9, inputs.image))
    with torch.no_grad():
        found, again = (one.evidence(one(inputs), inputs) for one in (detector, twin))
        bare = detector.evidence(detector(Inputs(inputs.image)), Inputs(inputs.image))
    torch.testing.assert_close(found.maps, again.maps)
    torch.testing.assert_close(found.maps["dark"], -found.maps["bright"])
    assert found.maps["bright"][..., spot].min() > 3
    assert found.maps["bright"][..., ~spot].mean().abs() < 0.5
    assert (top_mean(found.maps["bright"], 0.01) > 3).all()
    assert (top_mean(found.maps["dark"], 0.01) < 3).all()
    assert (bare.maps["bright"] == 0).all() and (bare.maps["dark"] == 0).all()


@pytest.mark.parametrize(
    ("normative", "shift", "placed", "decided"),
    [
        (None, 0.0, True, True),
        (None, 0.5, True, False),
        (None, 0.0, False, False),
        (False, 0.0, True, False),
        (True, 0.5, True, True),
    ],
    ids=["volumes", "unlike outlines", "pictures", "not wanted", "wanted"],
)
def test_who_gets_a_normative_map(
    normative: bool | None, shift: float, placed: bool, decided: bool
) -> None:
    detector, batches = AEFlowDetector(normative=normative, **SMALL).eval(), volumes(shift=shift)
    if not placed:
        del batches.context["place"]
    for stage in ("train", None):
        detector.prepare(batches, stage)
    assert detector.config["normative"] is decided
    assert (detector.normative is not None) == decided == ("bright" in str(detector.parts))
    assert detector.needs == (("body", "place") if decided else ())
    if detector.normative is not None:
        assert float(detector.normative.mean.max()) > 0.2  # fitted


def test_patients_are_told_apart_across_batches() -> None:
    found = []
    for size in (1, 3, 5, 64):
        batches = volumes(size=size)
        batches.images = torch.linspace(0, 1, 20)[:, None, None, None] * batches.context["body"]
        cases = list(by_case(batches))
        assert [len(image) for image, _, _ in cases] == [5] * 4
        found.append([torch.cat(one) for one in zip(*cases, strict=True)])
        assert torch.equal(found[-1][0], batches.images)
        assert torch.equal(found[-1][2], batches.context["place"])
    # The first case of a data set whose first patients have no normal slice is no other.
    batches = volumes(1)
    batches.context["case"] += 7
    assert len(list(by_case(batches))) == 1


def test_what_labelled_anomalies_teach(make_images: MakeImages) -> None:
    detector = AEFlowDetector(with_head=True, labels="masks", **SMALL)
    inputs = Inputs(make_images(3))
    mask = torch.zeros(3, 1, 32, 32)
    mask[1, :, :16] = 1.0
    mask[2] = torch.nan
    output = detector(inputs)
    logits = output.head
    found = detector.loss(HeadOutput(logits), inputs, "pretrain", mask)["loss"]
    cover = F.avg_pool2d(mask[:2], 8)
    pooled = top_mean(logits[2:], detector.config["head_pool"])
    rows = [F.binary_cross_entropy_with_logits(logits[i], cover[i]) for i in (0, 1)]
    rows.append(F.binary_cross_entropy_with_logits(pooled[0], torch.ones(())))
    torch.testing.assert_close(found, torch.stack(rows).mean())

    terms = detector.loss(output, inputs, "train", mask)
    image = detector.normalize(inputs.image)
    plain = AEFlowLoss(0.5).terms(
        output._replace(
            reconstruction=output.reconstruction[:1],
            latents=[torch.stack([latent[0], latent[1], latent[2]]) for latent in output.latents],
        ),
        image[:1],
    )
    torch.testing.assert_close(terms["recon_loss"], plain.reconstruction)
    moved = output.latents[0].clone()
    moved[1, :, :2] -= detector.mixtures[0].mean[0]
    moved[2] -= detector.mixtures[0].mean[0]
    expected = AEFlowLoss(0.5).terms(output._replace(latents=[moved]), image).flow
    torch.testing.assert_close(terms["flow_loss"], expected)
    torch.testing.assert_close(terms["loss"], 0.5 * (expected + plain.reconstruction))


def test_labels_give_a_part_of_their_own(make_images: MakeImages) -> None:
    without = AEFlowDetector(with_head=True, **SMALL)
    assert "labelled" not in [part.name for part in without.parts]
    assert "labels" not in without.config and not without.mixtures
    inputs = Inputs(make_images(2))
    for kind, map_weight in (("images", 0.0), ("masks", 1.0)):
        detector = AEFlowDetector(with_head=True, labels=kind, **SMALL)
        (part,) = (one for one in detector.parts if one.name == "labelled")
        assert part.maps == ("odds8",) and part.map_weight == map_weight and part.weight > 0
        output = detector(inputs)
        odds = detector.mixtures[0].log_odds(output.latents[0])
        torch.testing.assert_close(detector.evidence(output, inputs).maps["odds8"][:, 0], odds)
        assert DETECTORS["aeflow"](**detector.config).parts == detector.parts
    with pytest.raises(ArgumentError, match="labels: expected one of 'images', 'masks'"):
        AEFlowDetector(labels="mask", **SMALL)

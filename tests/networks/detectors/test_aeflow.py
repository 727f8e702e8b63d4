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

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
SMALL: dict[str, Any] = {"flow_strides": (8,), "flow_steps": 1, "hidden": 8, "decoder_width": 4}


class Images:
    """Batches of given images."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __iter__(self) -> Any:
        return (Inputs(batch) for batch in self.images.split(3))

    def spread(self, count: int) -> Inputs:
        return Inputs(self.images[:count])


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

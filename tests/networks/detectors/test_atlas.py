"""The atlas: Bayes' rule on a toy, its deformation, and what it learns without labels."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from networks import Inputs
from networks.detectors.atlas import AtlasDetector, deformed, places, segment

MakeImages = Callable[..., Tensor]


def gaussian(x: float, mean: float, variance: float) -> float:
    return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def test_the_posterior_is_bayes_rule() -> None:
    image = torch.tensor([0.2, 1.5]).view(1, 1, 1, 2)
    prior = torch.tensor([[0.9, 0.3], [0.1, 0.7]]).view(1, 2, 1, 2)
    mean, variance = [0.0, 1.0], [0.25, 0.5]
    found = segment(
        image, prior, torch.tensor(mean).view(1, 2, 1), torch.tensor(variance).log().view(1, 2, 1)
    )
    for pixel, x in enumerate((0.2, 1.5)):
        joint = [float(prior[0, k, 0, pixel]) * gaussian(x, mean[k], variance[k]) for k in (0, 1)]
        posterior = found.posterior[0, :, 0, pixel].tolist()
        assert posterior == pytest.approx([one / sum(joint) for one in joint], rel=1e-5)
        assert float(found.log_likelihood[0, 0, pixel]) == pytest.approx(math.log(sum(joint)))


def test_channels_are_independent_given_the_class() -> None:
    image, prior = torch.rand(2, 3, 4, 4), torch.ones(2, 1, 4, 4)
    mean, log_variance = torch.rand(2, 1, 3), torch.rand(2, 1, 3)
    found = segment(image, prior, mean, log_variance).log_likelihood
    each = [
        segment(image[:, c : c + 1], prior, mean[..., c : c + 1], log_variance[..., c : c + 1])
        for c in range(3)
    ]
    torch.testing.assert_close(found, sum(one.log_likelihood for one in each))


def test_a_velocity_moves_the_atlas_by_its_flow() -> None:
    atlas = torch.rand(1, 2, 16, 16)
    still = torch.zeros(1, 2, 16, 16)
    torch.testing.assert_close(deformed(atlas, still, places(16)), atlas)
    shift = still.clone()
    shift[:, 0] = 3 * 2 / 16  # half sides: three pixels along the rows
    torch.testing.assert_close(deformed(atlas, shift, places(16))[..., :-3], atlas[..., 3:])


def test_it_starts_with_the_atlas_and_classes_of_the_images() -> None:
    half = torch.zeros(1, 1, 32, 32)
    half[..., 16:] = 1.0
    noise = 0.01 * torch.randn(8, 1, 32, 32)
    images = (half + noise).clamp(0.0, 1.0)

    class Batches:
        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter([Inputs(images)])

        def spread(self, count: int) -> Inputs:
            return Inputs(images)

    detector = AtlasDetector(image_size=32, width=8, classes=2, templates=1)
    detector.prepare(Batches(), "train")
    inputs = Inputs(images[:1])
    output = detector(inputs)
    dark = int(detector.class_mean.argmin())
    assert (output.prior[0, dark, :, :16] > 0.99).all()
    assert (output.prior[0, dark, :, 16:] < 0.01).all()
    torch.testing.assert_close(output.mean[0], detector.class_mean)
    lesion = images[:1].clone()
    lesion[..., 10:14, 4:8] = 1.0  # bright where all is dark
    strange = detector.evidence(detector(Inputs(lesion)), Inputs(lesion)).maps["likelihood"][0, 0]
    inside = strange[10:14, 4:8]
    assert inside.min() > strange.sum() / strange.numel() and strange[20:, :14].max() < inside.min()
    terms = detector.loss(output, inputs, "train")
    assert terms["smoothness_loss"].item() == 0.0
    assert terms["loss"].item() == pytest.approx(terms["likelihood_loss"].item())
    with torch.no_grad():
        detector.atlas.fill_(7.0)
    detector.prepare(Batches(), None)
    assert (detector.atlas == 7.0).all()  # after the training it is left alone


def test_the_smoothness_counts_pixels_per_pixel() -> None:
    detector = AtlasDetector(image_size=(32, 64), width=8, classes=2, templates=1, smoothness=2.0)
    inputs = Inputs(torch.rand(1, 1, 32, 64))
    output = detector(inputs)
    velocity = torch.zeros_like(output.velocity)
    velocity[:, 0] = 0.1 * torch.arange(64) * 2 / 64  # a tenth of a pixel per pixel along the rows
    terms = detector.loss(output._replace(velocity=velocity), inputs, "train")
    assert terms["smoothness_loss"].item() == pytest.approx(0.01 / 2, rel=1e-4)
    assert (terms["loss"] - terms["likelihood_loss"]).item() == pytest.approx(0.01, rel=1e-3)

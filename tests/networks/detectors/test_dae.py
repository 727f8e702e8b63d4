"""The denoising autoencoder: its noise, loss and map by hand."""

from collections.abc import Callable

import torch
from scipy.ndimage import median_filter as scipy_median
from torch import Tensor

from networks import Inputs
from networks.detectors.dae import DAEDetector, DAEOutput, foreground, median_filter

MakeImages = Callable[..., Tensor]


def test_noise_is_coarse_of_its_deviation_and_in_the_foreground(make_images: MakeImages) -> None:
    detector = DAEDetector(in_channels=2, width=8, noise=0.2, noise_cells=8)
    image = make_images(64, channels=2, height=64, width=64)
    noise = detector.with_noise(image) - image
    inside = foreground(image).expand_as(noise) == 1
    assert (noise[~inside] == 0).all() and (~inside).any()
    # Bilinear interpolation keeps between 4/9 and all of the variance.
    assert 0.2 * 2 / 3 - 0.01 < noise[inside].std() < 0.2
    steps = noise.diff(dim=-1)[(inside[..., 1:] & inside[..., :-1])]
    assert steps.std() < 0.3 * noise[inside].std()  # a cell is 9 pixels wide


def test_the_loss_counts_the_foreground_alone() -> None:
    detector = DAEDetector(width=8)
    inputs = Inputs(torch.tensor([0.0, 0.5, 1.0, 0.005]).view(1, 1, 2, 2))
    output = DAEOutput(torch.tensor([9.0, 0.0, 3.0, 9.0]).view(1, 1, 2, 2))
    assert float(detector.loss(output, inputs, "train")["loss"]) == (0.25 + 4.0) / 4


def test_scoring_sees_no_noise(make_images: MakeImages) -> None:
    detector, inputs = DAEDetector(width=8).eval(), Inputs(make_images(2))
    assert torch.equal(detector(inputs).denoised, detector(inputs).denoised)
    assert not torch.equal(detector(inputs).denoised, detector(inputs, stage="train").denoised)


def test_the_map_is_the_filtered_residual_inside_the_eroded_foreground() -> None:
    detector = DAEDetector(in_channels=2, width=8)
    image = torch.full((1, 2, 24, 24), 0.5)
    image[..., :8] = 0.0
    output = DAEOutput(image + torch.tensor([1.0, -3.0]).view(1, 2, 1, 1))
    found = detector.evidence(output, Inputs(image))
    assert (found.maps["residual"][0, 0, 4:-4, 12:-4] == 2.0).all()
    assert (found.maps["residual"][..., :10] == 0.0).all()
    assert found.reconstruction is not None
    assert torch.equal(found.reconstruction[..., :8], image[..., :8])


def test_the_median_is_scipys() -> None:
    value = torch.rand(2, 1, 12, 9)
    expected = [scipy_median(one[0].numpy(), 5, mode="constant") for one in value]
    torch.testing.assert_close(
        median_filter(value)[:, 0], torch.stack([*map(torch.tensor, expected)])
    )

"""Local contrast."""

from collections.abc import Callable

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from networks.contrast import (
    LEAST_DEVIATION,
    LIMIT,
    SURROUNDINGS,
    gaussian_blur,
    local_contrast,
    surroundings,
)

MakeImages = Callable[..., Tensor]


def textured(count: int = 3, channels: int = 2, side: int = 64) -> Tensor:
    source = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, side // 4, side // 4, generator=source)
    return 0.3 + 0.4 * torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def test_blur_is_scipys_over_what_lies_inside(make_images: MakeImages) -> None:
    image = make_images(2, 3, 20, 33).double()
    sums, weights = (
        gaussian_filter(values.numpy(), 1.5, axes=(2, 3), mode="constant", truncate=12)
        for values in (image, torch.ones_like(image))
    )
    expected = torch.from_numpy(sums / weights)
    torch.testing.assert_close(gaussian_blur(image, 1.5), expected)
    each = gaussian_blur(image, torch.tensor([0.01, 1.5]).double())
    torch.testing.assert_close(each, torch.stack([image[0], expected[1]]))


def test_surroundings_are_local_moments() -> None:
    image = textured().double()
    sigma = SURROUNDINGS * 64
    mean = gaussian_blur(image, sigma)
    found = surroundings(image)
    torch.testing.assert_close(found.mean, mean)
    deviation = gaussian_blur((image - mean) ** 2, sigma).sqrt()
    torch.testing.assert_close(found.scale, deviation + LEAST_DEVIATION)


def test_exposure_hardly_matters() -> None:
    image = textured()
    ramp = torch.linspace(0.8, 1.2, 64)
    for changed in (image + 0.2, image * ramp):
        assert (changed - image).abs().max() > 0.1
        assert (local_contrast(changed) - local_contrast(image)).abs().mean() < 0.15
    assert local_contrast(image).std() > 0.5


def test_nothing_is_made_of_a_flat_image_and_extremes_are_kept_in_bounds() -> None:
    flat = torch.full((2, 1, 48, 48), 0.4)
    assert local_contrast(flat).abs().max() < 1e-3
    speck = flat.clone()
    speck[:, :, 24, 24] = 1.0
    assert float(local_contrast(speck).max()) == pytest.approx(LIMIT)


def test_mixed_precision_does_not_reach_it() -> None:
    image = textured()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = local_contrast(image)
    assert found.dtype == torch.float32
    assert torch.equal(found, local_contrast(image))

"""Variation of normal images."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from transforms.augment import (
    NormalVariation,
    gaussian_blur,
    log_uniform,
    move,
    uniform,
    variation_for,
    vary_appearance,
)
from transforms.augment import vary as vary_with_mask

MakeImages = Callable[..., Tensor]

STILL = NormalVariation(0.0, (1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0, (0.0, 0.0), (0.0, 0.0), 0.0)
STRONG = NormalVariation(
    rotation=30,
    zoom=(0.7, 1.5),
    gamma=1.0,
    contrast=0.8,
    brightness=0.4,
    sharpness=(-2.0, 3.0),
    noise=0.3,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vary(
    image: Tensor, generator: torch.Generator, variation: NormalVariation | None = None
) -> Tensor:
    """Moves the images and varies how they look, in their own bodies."""
    variation = variation or NormalVariation()
    moved = move(image, generator, variation)
    return vary_appearance(moved, (moved.amax(1, True) > 1e-3).float(), generator, variation)


@pytest.mark.parametrize("sigma", [0.4, 0.8, 2.0])
def test_blur_is_scipys_over_what_lies_inside(make_images: MakeImages, sigma: float) -> None:
    image = make_images(2, 3, 20, 33).double()
    sums, weights = (
        gaussian_filter(values.numpy(), sigma, axes=(2, 3), mode="constant", truncate=12)
        for values in (image, torch.ones_like(image))
    )
    expected = torch.from_numpy(sums / weights)
    torch.testing.assert_close(gaussian_blur(image, sigma), expected)
    each = gaussian_blur(image, torch.tensor([0.0, sigma]).double())
    torch.testing.assert_close(each, torch.stack([image[0], expected[1]]))


def test_blur_wider_than_the_image_keeps_a_constant() -> None:
    image = torch.full((1, 1, 6, 9), 0.4)
    torch.testing.assert_close(gaussian_blur(image, 4.0), image)


def test_uniform_stays_between_its_ends() -> None:
    found = uniform((1000,), -2.0, 3.0, torch.zeros(1), seeded())
    assert -2 <= found.min() < -1.9 and 2.9 < found.max() <= 3


def test_logarithms_are_uniform() -> None:
    found = log_uniform((4000,), 0.1, 10.0, torch.zeros(1), seeded())
    assert 0.1 <= found.min() and found.max() <= 10
    assert float(found.median()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("shape", [(4, 1, 32, 32), (3, 4, 24, 40)])
def test_the_seed_alone_decides(make_images: MakeImages, shape: tuple[int, ...]) -> None:
    image = make_images(*shape)
    before = image.clone()
    first = vary(image, seeded(5))
    torch.manual_seed(99)
    assert torch.equal(first, vary(image, seeded(5)))
    assert not torch.equal(first, vary(image, seeded(6)))
    assert torch.equal(image, before)
    assert first.shape == shape and first.dtype == torch.float32


def test_images_of_a_batch_vary_differently(make_images: MakeImages) -> None:
    same = make_images(1).repeat(2, 1, 1, 1)
    first, second = vary(same, seeded())
    assert not torch.equal(first, second)


def test_values_stay_in_range(make_images: MakeImages) -> None:
    image = make_images(8, 2)
    for seed in range(3):
        varied = vary(image, seeded(seed), STRONG)
        assert varied.min() >= 0 and varied.max() <= 1
        assert varied.max() > 0.5


def test_the_background_stays_exactly_0(make_images: MakeImages) -> None:
    image = make_images(6, 2, 32, 48)
    background = (image == 0).all(dim=1)
    in_place = replace(STRONG, rotation=0, zoom=(1.0, 1.0), shift=0.0, flip=0.0)
    varied = vary(image, seeded(), in_place)
    assert (varied.amax(dim=1)[background] == 0).all()
    moved = vary(image, seeded(), STRONG)
    assert (moved == 0).all(dim=1).float().mean() > 0.05


def test_nothing_asked_for_changes_nothing(make_images: MakeImages) -> None:
    image = make_images(3, 2, 32, 48)
    torch.testing.assert_close(vary(image, seeded(), STILL), image, atol=1e-5, rtol=0)


def test_each_kind_of_variation_does_what_it_says(make_images: MakeImages) -> None:
    image = make_images(4)
    flipped = vary(image, seeded(), replace(STILL, flip=1.0))
    torch.testing.assert_close(flipped, image.flip(-1), atol=1e-5, rtol=0)
    brighter = vary(image, seeded(), replace(STILL, brightness=0.2))
    assert ((brighter - image)[image > 0].abs() <= 0.2 + 1e-4).all()
    assert ((brighter - image)[image > 0].abs() > 0.01).any()
    noise = vary(image, seeded(), replace(STILL, noise=0.1)) - image
    assert 0.005 < noise[image > 0].std() < 0.1
    edges = (image - gaussian_blur(image, 2.0)).square().mean()
    for gain, sign in ((-1.0, -1), (1.5, 1)):
        varied = vary(image, seeded(1), replace(STILL, sharpness=(gain, gain)))
        changed = (varied - gaussian_blur(varied, 2.0)).square().mean()
        assert (changed - edges) * sign > 0
    for sigma in (0.5, 2.0):
        varied = vary(image, seeded(1), replace(STILL, blur=(7 * sigma, 7 * sigma)))
        expected = gaussian_blur(image, sigma).clamp(0, 1) * (image > 0)
        same, blurred = (
            ((varied - one).abs().amax(dim=(1, 2, 3)) < 1e-4) for one in (image, expected)
        )
        assert (same | blurred).all() and blurred.any()


def test_lungs_are_blurred_more() -> None:
    assert variation_for("lungs").blur[1] > variation_for("body").blur[1]
    assert variation_for("given") == NormalVariation()


def test_what_is_marked_moves_along(make_images: MakeImages) -> None:
    image = (make_images(4) > 0.5).float()
    plain = replace(STILL, rotation=20.0, shift=0.2, flip=0.5)
    source = torch.Generator().manual_seed(3)
    changed, mask = vary_with_mask(image, torch.ones_like(image) > 0, image, source, plain)
    assert not torch.equal(mask, image)
    torch.testing.assert_close((changed > 0.5).float(), mask)
    unknown = torch.full_like(image, torch.nan)
    assert vary_with_mask(image, image > 0, unknown, source, plain)[1].isnan().all()

"""Synthetic anomalies in normal images."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from transforms.augment import NormalVariation
from transforms.synthetic import AnomalyRecipe, SyntheticAnomalies, random_blobs

MakeImages = Callable[..., Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(8, 1, 32, 32), (6, 4, 24, 40)])
@pytest.mark.parametrize("variation", [None, NormalVariation()])
def test_the_seed_alone_decides(
    make_images: MakeImages, shape: tuple[int, ...], variation: NormalVariation | None
) -> None:
    image = make_images(*shape)
    before = image.clone()
    synthetic = SyntheticAnomalies(variation=variation)
    first = synthetic(image, seeded(5))
    torch.manual_seed(99)
    again = synthetic(image, seeded(5))
    other = synthetic(image, seeded(6))
    assert torch.equal(image, before)
    for found, same, different in zip(first, again, other, strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, same) and not torch.equal(found, different)
    changed, mask = first
    assert changed.shape == shape and mask.shape == (shape[0], 1, *shape[2:])
    assert changed.min() >= 0 and changed.max() <= 1
    assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_the_background_stays_exactly_0(make_images: MakeImages) -> None:
    image = make_images(16, 2)
    changed, mask = SyntheticAnomalies(AnomalyRecipe(clean_share=0))(image, seeded())
    background = (image == 0).all(dim=1, keepdim=True)
    assert (changed * background == 0).all()
    assert (mask * background == 0).all()


@pytest.mark.parametrize("level", [None, 1.0, 0.02])
def test_masks_lie_only_where_the_image_changed(
    make_images: MakeImages, level: float | None
) -> None:
    image = make_images(48, 2)
    if level is not None:  # saturated or dark: additions and subtractions come to nothing
        image = (image > 0) * level
    recipe = AnomalyRecipe(clean_share=0, second_share=0)  # a second one may undo the first
    changed, mask = SyntheticAnomalies(recipe)(image, seeded())
    difference = (changed - image).abs().mean(dim=1, keepdim=True)
    # The mask sees the change smoothed by a Gaussian of 1.5 pixels.
    near = torch.nn.functional.max_pool2d(difference, 11, stride=1, padding=5)
    assert mask.any()
    assert near[mask > 0].min() > AnomalyRecipe().least_change
    inside = difference[mask > 0].mean()
    assert inside > 5 * difference[mask == 0].mean()


def test_clean_images_get_an_empty_mask_and_stay_as_they_are(make_images: MakeImages) -> None:
    image = make_images(32)
    changed, mask = SyntheticAnomalies(AnomalyRecipe(clean_share=1.0))(image, seeded())
    assert not mask.any()
    torch.testing.assert_close(changed, image)


def test_about_the_asked_share_stays_clean(make_images: MakeImages) -> None:
    image = make_images(400, 1, 16, 16)
    recipe = AnomalyRecipe(clean_share=0.6, radius=(0.2, 0.3))
    changed, mask = SyntheticAnomalies(recipe)(image, seeded())
    same = ((changed - image).abs().amax(dim=(1, 2, 3)) < 1e-6).float().mean()
    assert same == pytest.approx(0.6, abs=0.08)
    assert mask[(changed - image).abs().amax(dim=(1, 2, 3)) < 1e-6].sum() == 0


def test_second_anomalies_make_masks_larger(make_images: MakeImages) -> None:
    image = make_images(64)
    one, two = (
        SyntheticAnomalies(AnomalyRecipe(clean_share=0, second_share=share))(image, seeded())[1]
        for share in (0.0, 1.0)
    )
    assert (two >= one).all()
    assert two.sum() > 1.3 * one.sum()


def test_larger_radii_make_larger_anomalies(make_images: MakeImages) -> None:
    image = make_images(32)
    small, large = (
        SyntheticAnomalies(AnomalyRecipe(clean_share=0, radius=radius))(image, seeded())[1].mean()
        for radius in ((0.04, 0.06), (0.2, 0.25))
    )
    assert large > 4 * small > 0


def test_blobs_are_centred_where_they_may_be(make_images: MakeImages) -> None:
    image = make_images(64, 1, 24, 40)
    allowed = torch.zeros(64, 1, 24, 40)
    allowed[..., 5:8, 30:35] = 1
    recipe = AnomalyRecipe(radius=(0.08, 0.1), roughness=(0.0, 0.0), softness=(2.0, 2.0))
    blobs = random_blobs(image, allowed, seeded(), recipe)
    assert blobs.shape == (64, 1, 24, 40)
    assert blobs.min() >= 0 and blobs.max() <= 1
    peak = blobs.flatten(1).argmax(dim=1)
    rows, columns = peak // 40, peak % 40
    assert ((rows >= 5) & (rows < 8) & (columns >= 30) & (columns < 35)).all()
    assert blobs[..., 15:, :20].max() < 0.01


def test_a_single_image_and_an_empty_one_do_no_harm(make_images: MakeImages) -> None:
    for image in (make_images(1), torch.zeros(2, 1, 32, 32)):
        changed, mask = SyntheticAnomalies(AnomalyRecipe(clean_share=0))(image, seeded(3))
        assert torch.isfinite(changed).all() and torch.isfinite(mask).all()
    assert not changed.any() and not mask.any()

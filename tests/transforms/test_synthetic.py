"""Synthetic anomalies in normal images."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from transforms.augment import NormalVariation, move
from transforms.errors import InputError
from transforms.fillings import FILLINGS
from transforms.recipe import AnomalyRecipe, recipe_for, withheld_recipe
from transforms.shapes import SHAPES
from transforms.synthetic import SyntheticAnomalies

MakeImages = Callable[..., Tensor]

QUIET = NormalVariation(0, (1, 1), 0, 0, 0, 0, 0, (0, 0), (0, 0), 0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_volumes(image: Tensor, depth: int) -> Tensor:
    """Images ``(B * D, C, H, W)`` as volumes ``(B, C, D, H, W)``."""
    return image.unflatten(0, (-1, depth)).transpose(1, 2)


def make_anomalies(
    image: Tensor,
    generator: torch.Generator,
    recipe: AnomalyRecipe | None = None,
    variation: NormalVariation | None = None,
) -> tuple[Tensor, Tensor]:
    """Anomalies anywhere in the bodies."""
    body = (image > 0).any(dim=1, keepdim=True)
    return SyntheticAnomalies(recipe, variation)(image, body, body, generator)


@pytest.mark.parametrize("shape", [(8, 1, 32, 32), (6, 4, 24, 40), (4, 2, 5, 24, 32)])
@pytest.mark.parametrize("variation", [None, NormalVariation()])
def test_the_seed_alone_decides(
    make_images: MakeImages, shape: tuple[int, ...], variation: NormalVariation | None
) -> None:
    depth = shape[2:-2]
    image = make_images(shape[0] * math.prod(depth), shape[1], *shape[-2:])
    image = as_volumes(image, *depth) if depth else image
    before = image.clone()
    first = make_anomalies(image, seeded(5), variation=variation)
    torch.manual_seed(99)
    again = make_anomalies(image, seeded(5), variation=variation)
    other = make_anomalies(image, seeded(6), variation=variation)
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
    changed, mask = make_anomalies(image, seeded(), AnomalyRecipe(clean_share=0))
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
    changed, mask = make_anomalies(image, seeded(), recipe)
    difference = (changed - image).abs().mean(dim=1, keepdim=True)
    # The mask sees the change smoothed by a Gaussian of 1.5 pixels.
    near = torch.nn.functional.max_pool2d(difference, 11, stride=1, padding=5)
    assert mask.any()
    assert near[mask > 0].min() > AnomalyRecipe().least_change
    inside = difference[mask > 0].mean()
    assert inside > 5 * difference[mask == 0].mean()


def test_clean_images_get_an_empty_mask_and_stay_as_they_are(make_images: MakeImages) -> None:
    image = make_images(32)
    changed, mask = make_anomalies(image, seeded(), AnomalyRecipe(clean_share=1.0))
    assert not mask.any()
    torch.testing.assert_close(changed, image)


def test_about_the_asked_share_stays_clean(make_images: MakeImages) -> None:
    image = make_images(400, 1, 16, 16)
    recipe = AnomalyRecipe(clean_share=0.6, radius=(0.2, 0.3))
    changed, mask = make_anomalies(image, seeded(), recipe)
    same = ((changed - image).abs().amax(dim=(1, 2, 3)) < 1e-6).float().mean()
    assert same == pytest.approx(0.6, abs=0.08)
    assert mask[(changed - image).abs().amax(dim=(1, 2, 3)) < 1e-6].sum() == 0


def test_second_anomalies_make_masks_larger(make_images: MakeImages) -> None:
    image = make_images(64)
    one, two = (
        make_anomalies(image, seeded(), AnomalyRecipe(clean_share=0, second_share=share))[1]
        for share in (0.0, 1.0)
    )
    assert (two >= one).all()
    assert two.sum() > 1.3 * one.sum()


def test_larger_radii_make_larger_anomalies(make_images: MakeImages) -> None:
    image = make_images(32)
    small, large = (
        make_anomalies(image, seeded(), AnomalyRecipe(clean_share=0, radius=radius))[1].mean()
        for radius in ((0.04, 0.06), (0.2, 0.25))
    )
    assert large > 4 * small > 0


@pytest.mark.parametrize("size", [(24, 40), (6, 24, 40)])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_shapes_lie_in_the_region(shape: str, size: tuple[int, ...]) -> None:
    region = torch.zeros(64, 1, *size)
    region[..., 5:15, 20:35] = 1
    recipe = AnomalyRecipe(radius=(0.08, 0.3), inside_share=1.0)
    soft = SHAPES[shape](region, seeded(), recipe)
    assert soft.shape == region.shape
    assert soft.min() >= 0 and soft.max() <= 1 and soft.max() > 0.9
    assert not soft[region == 0].any()


def test_ellipses_of_volumes_end_in_all_directions() -> None:
    region = torch.ones(32, 1, 24, 32, 32)
    recipe = AnomalyRecipe(radius=(0.1, 0.15), roughness=(0.0, 0.0))
    seen = SHAPES["ellipse"](region, seeded(), recipe) > 0.5
    for axis in (2, 3, 4):
        others = [one for one in (2, 3, 4) if one != axis]
        lengths = seen.any(dim=others).sum(dim=2).float()  # along this axis
        assert lengths.max() <= 11 and lengths.min() >= 1 and lengths.mean() > 5
    # Whole where it is cut by no border: each slice's area rises and falls once.
    areas = seen[:, 0].sum(dim=(2, 3)).float().diff(dim=1).sign()
    assert all(len(one[one != 0].unique_consecutive()) <= 2 for one in areas)


def test_volumes_move_within_their_slices(make_images: MakeImages) -> None:
    image = as_volumes(make_images(12, 1, 24, 24), 6)
    turned = move(image, seeded(), replace(QUIET, rotation=20, shift=0.1, flip=1.0))
    for one in range(6):  # what a slice shows stays in it
        alone = image.clone()
        alone[:, :, one] = 0
        again = move(alone, seeded(), replace(QUIET, rotation=20, shift=0.1, flip=1.0))
        changed = (turned - again).abs().amax(dim=(0, 1, 3, 4)) > 1e-4
        assert changed.nonzero().flatten().tolist() == [one]


def test_some_ellipses_reach_out_of_the_region_that_they_are_centred_in() -> None:
    region = torch.zeros(64, 1, 24, 40)
    region[..., 5:8, 30:35] = 1
    recipe = AnomalyRecipe(
        radius=(0.08, 0.1), roughness=(0.0, 0.0), softness=(2.0, 2.0), inside_share=0.5
    )
    soft = SHAPES["ellipse"](region, seeded(), recipe)
    peak = soft.flatten(1).argmax(dim=1)
    rows, columns = peak // 40, peak % 40
    assert ((rows >= 5) & (rows < 8) & (columns >= 30) & (columns < 35)).all()
    outside = (soft * (1 - region)).flatten(1).amax(dim=1) > 0
    assert 0.3 < outside.float().mean() < 0.7
    assert soft[..., 15:, :20].max() < 0.01


@pytest.mark.parametrize("filling", list(FILLINGS))
@pytest.mark.parametrize(("channels", "depth"), [(1, 0), (3, 0), (1, 3)])
def test_every_filling_shows(
    make_images: MakeImages, filling: str, channels: int, depth: int
) -> None:
    image = make_images(24, channels)
    image = as_volumes(image, depth) if depth else image
    recipe = AnomalyRecipe(clean_share=0, fillings=(filling,), radius=(0.2, 0.3))
    changed, mask = make_anomalies(image, seeded(), recipe)
    # Phantoms are as smooth as what is blurred; some stay as they are.
    assert (mask.flatten(1).amax(dim=1) > 0).float().mean() > (0.0 if filling == "blurred" else 0.4)
    brighter = float((changed - image)[mask.expand_as(image) > 0].mean())
    if filling in ("opacity", "reticular"):
        assert brighter > 0.01
    if filling == "darkening":
        assert brighter < -0.01


def test_flattened_structures_lose_contrast() -> None:
    stripes = 0.5 + 0.1 * (torch.arange(32) % 2).view(1, 1, 1, -1).expand(16, 1, 32, 32)
    made = FILLINGS["flattened"](stripes, seeded(), AnomalyRecipe())
    contrast = made.diff(dim=-1).abs().mean(dim=(1, 2, 3))
    assert (contrast < 0.09).all() and (contrast > 0.01).all()


def test_a_foreign_patch_has_the_mean_and_contrast_of_its_host(make_images: MakeImages) -> None:
    dark, bright = make_images(2, 1)
    image = torch.stack([0.2 * dark, 0.5 + 0.5 * bright])
    image[:, :, :4] = 0.0
    made = FILLINGS["foreign"](image, seeded(), AnomalyRecipe())
    for before, after in zip(image, made, strict=True):
        shown = (before > 0) & (after != before)
        assert shown.any() and abs(float((after - before)[shown].mean())) < 0.05
        assert (after[before > 0].std() / before[before > 0].std()) < 1.3


def test_a_bias_of_tissue_shifts_equal_greys_alike() -> None:
    steps = torch.linspace(0.1, 0.9, 4).repeat_interleave(16).view(1, 1, 1, 64).expand(8, 2, 64, 64)
    made = FILLINGS["tissue"](steps, seeded(), AnomalyRecipe(contrast=(1.0, 1.0)))
    shift = (made - steps)[..., 8::16]  # in the middle of each step
    assert shift.std(dim=-2).max() < 1e-5 and shift.std(dim=-1).min() > 0.0
    assert shift.abs().max() <= 0.35


def test_a_deformation_moves_and_makes_no_new_greys(make_images: MakeImages) -> None:
    image = make_images(8)
    made = FILLINGS["deformed"](image, seeded(), AnomalyRecipe())
    assert (made - image).abs().mean() > 0.002
    assert made.min() >= image.min() - 1e-6 and made.max() <= image.max() + 1e-6


def test_region_and_body_move_with_the_image() -> None:
    body = torch.zeros(200, 1, 48, 48)
    body[..., 6:42, 6:42] = 1
    region = torch.zeros_like(body)
    region[..., 10:38, 8:20] = 1
    image = 0.2 * body + 0.4 * region  # so that the region is seen wherever it comes to lie
    recipe = AnomalyRecipe(clean_share=0, fillings=("opacity",), inside_share=1.0)
    still = NormalVariation(
        gamma=0, contrast=0, brightness=0, sharpness=(0, 0), blur=(0, 0), noise=0
    )
    changed, mask = SyntheticAnomalies(recipe, still)(image, body.bool(), region.bool(), seeded())
    found = mask.bool().squeeze(1)
    assert found.any(dim=1).any(dim=1).float().mean() > 0.8
    assert found[:, :, 28:].any() and found[:, :, :20].any()  # flipped and not
    assert (changed[:, 0][found] > 0.5).float().mean() > 0.98
    assert not mask[(changed == 0)].any()


def test_a_blurred_image_has_blurred_anomalies(make_images: MakeImages) -> None:
    image = torch.full((64, 1, 32, 32), 0.3)
    recipe = AnomalyRecipe(clean_share=0, fillings=("opacity",), softness=(0.05, 0.06))
    everywhere = torch.ones_like(image).bool()
    sharp, smooth = (
        SyntheticAnomalies(recipe, one)(image, everywhere, everywhere, seeded())[0]
        for one in (QUIET, replace(QUIET, blur=(20, 21)))
    )
    assert smooth.diff(dim=-1).abs().amax() <= sharp.diff(dim=-1).abs().amax()
    assert smooth.diff(dim=-1).abs().mean() < 0.8 * sharp.diff(dim=-1).abs().mean()


def test_recipes_name_what_exists() -> None:
    for region in ("body", "lungs", "given"):
        SyntheticAnomalies(recipe_for(region))
    assert recipe_for("given") == recipe_for("body") != recipe_for("lungs")
    one = recipe_for("lungs", ["haze"])
    assert one.fillings == ("haze",) and one.shapes == recipe_for("lungs").shapes
    for region, withheld in (("body", "reticular"), ("lungs", "foreign")):
        assert withheld not in recipe_for(region).fillings
        assert withheld_recipe(region).fillings == (withheld,)
    assert "haze" not in recipe_for("body", withheld="haze").fillings
    with pytest.raises(InputError, match="fillings: expected names among opacity.*, found mud"):
        SyntheticAnomalies(AnomalyRecipe(fillings=("haze", "mud")))
    with pytest.raises(InputError, match="shapes: expected names among ellipse.*, found none"):
        SyntheticAnomalies(AnomalyRecipe(shapes=()))


def test_a_single_image_and_an_empty_one_do_no_harm(make_images: MakeImages) -> None:
    for image in (make_images(1), torch.zeros(2, 1, 32, 32)):
        changed, mask = make_anomalies(image, seeded(3), AnomalyRecipe(clean_share=0))
        assert torch.isfinite(changed).all() and torch.isfinite(mask).all()
    assert not changed.any() and not mask.any()


@pytest.mark.parametrize("region", ["body", "lungs"])
def test_a_batch_is_one_graph(region: str) -> None:
    image, everywhere = torch.rand(16, 1, 32, 32), torch.ones(16, 1, 32, 32, dtype=torch.bool)
    maker = SyntheticAnomalies(recipe_for(region), NormalVariation())
    made = []
    for make in (maker, torch.compile(maker, fullgraph=True, backend="eager")):
        torch.manual_seed(1)
        made.append(make(image, everywhere, everywhere, None))
    for plain, compiled in zip(*made, strict=True):
        torch.testing.assert_close(compiled, plain)


@pytest.mark.gpu
@pytest.mark.parametrize("region", ["body", "lungs"])
def test_the_host_never_waits(region: str) -> None:
    image = torch.rand(16, 1, 32, 32, device="cuda")
    maker = SyntheticAnomalies(recipe_for(region), NormalVariation())
    source = torch.Generator("cuda").manual_seed(1)
    maker(image, image > 0, image > 0, source)
    torch.cuda.set_sync_debug_mode("error")
    try:
        maker(image, image > 0, image > 0, source)
    finally:
        torch.cuda.set_sync_debug_mode("default")

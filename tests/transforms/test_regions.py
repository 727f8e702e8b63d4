import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import PILReader
from scipy import ndimage

from transforms.errors import InputError
from transforms.lungs import _search
from transforms.regions import _to_grid, _to_size, lung_masks


def chest(seed: int = 0, size: tuple[int, int] = (160, 160)):
    """A radiograph with ribs, (1, H, W), and its lungs, (H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : size[0] * 1j, 0 : 1 : size[1] * 1j]
    y, x = y - rng.uniform(-0.03, 0.03), x - rng.uniform(-0.03, 0.03)
    body = np.abs(x - 0.5) < 0.43
    right = ((y - 0.45) / 0.27) ** 2 + ((x - 0.32) / 0.12) ** 2 < 1
    left = ((y - 0.45) / 0.27) ** 2 + ((x - 0.68) / 0.11) ** 2 < 1
    lungs = (left | right) & (y < 0.64)
    image = np.where(body, 0.65, 0.02) + 0.15 * body * (np.abs(x - 0.5) < 0.06)
    image = np.where(lungs, 0.3, image)
    ribs = (np.sin(2 * np.pi * 13 * (y + 0.3 * np.abs(x - 0.5))) > 0.5) & body & (y > 0.15)
    image = image + 0.1 * ribs + rng.normal(0, 0.02, size)
    image = ndimage.gaussian_filter(image, 1).clip(0, 1).astype(np.float32)
    return torch.from_numpy(image)[None], torch.from_numpy(lungs)


def lung_mask(image: torch.Tensor) -> torch.Tensor | None:
    """The lungs that an image ``(1, H, W)`` shows by itself."""
    _, found = _search(_to_grid(image[None])[0])
    return None if found is None else _to_size(found[None], image)[0]


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("size", [(160, 160), (224, 224), (200, 150), (448, 512)])
def test_lungs_are_found(size):
    image, lungs = chest(size=size)
    found = lung_mask(image)
    assert found is not None and found.dtype == torch.bool and found.shape == size
    assert dice(found, lungs) > 0.9


def test_exposure_makes_little_difference():
    image, lungs = chest()
    darker = lung_mask(0.4 * image)
    assert darker is not None and dice(darker, lungs) > 0.9
    shaded = lung_mask(image * torch.linspace(0.7, 1, 160))
    assert shaded is not None and dice(shaded, lungs) > 0.85


def without_one_lung() -> torch.Tensor:
    image, lungs = chest()
    image[0, :, 80:] = torch.where(lungs[:, 80:], 0.65, image[0, :, 80:])
    return image


def squeezed(side: float) -> torch.Tensor:
    """Both lungs in one half of the image."""
    image, _ = chest()
    narrow = torch.nn.functional.interpolate(image[None], (160, 80), mode="area")[0]
    other = torch.full_like(narrow, 0.65)
    return torch.cat([narrow, other] if side < 0.5 else [other, narrow], dim=2)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 160, 160),
        torch.full((1, 160, 160), 0.5),
        torch.rand(1, 160, 160, generator=torch.Generator().manual_seed(0)),
        1 - chest()[0],
        chest()[0].transpose(1, 2),
        without_one_lung(),
        squeezed(0.0),
        squeezed(1.0),
    ],
    ids=["black", "grey", "noise", "inverted", "lying", "one lung", "at left", "at right"],
)
def test_what_is_no_pair_of_lungs_is_refused(image):
    assert lung_mask(image) is None


def test_the_atlas_stands_in_where_an_image_does_not_tell():
    chests = [chest(seed) for seed in range(8)]
    images = torch.stack([image for image, _ in chests])
    lungs = torch.stack([mask for _, mask in chests])
    for index in (2, 5):  # what joins both lungs is as dark as they are
        images[index, 0, 35:95, 60:100] = 0.3
    alone = [lung_mask(image) for image in images]
    assert [index for index, mask in enumerate(alone) if mask is None] == [2, 5]
    result = lung_masks(images)
    assert result.own.tolist() == [index not in (2, 5) for index in range(8)]
    assert result.masks.dtype == torch.bool and result.masks.shape == (8, 160, 160)
    for index, (found, expected) in enumerate(zip(result.masks, lungs, strict=True)):
        assert dice(found, expected) > 0.8
        if result.own[index]:
            assert torch.equal(found, alone[index])


def test_unusual_masks_give_way_to_the_atlas():
    chests = [chest(seed) for seed in range(8)]
    images = torch.stack([image for image, _ in chests])
    y, x = torch.meshgrid(*(torch.linspace(0, 1, 160),) * 2, indexing="ij")
    slanted = ((x - 0.32 - 0.35 * (y - 0.45)).abs() < 0.05) | ((x - 0.72).abs() < 0.05)
    images[3] = torch.where(slanted & ((y - 0.45).abs() < 0.25), 0.3, 0.7)
    assert lung_mask(images[3]) is not None
    assert lung_masks(images).own.tolist() == [index != 3 for index in range(8)]


def test_images_without_lungs_are_refused():
    with pytest.raises(InputError, match="found lungs in 0 of 3 images. Take --region body"):
        lung_masks(torch.zeros(3, 1, 64, 64))


def test_the_number_of_processes_changes_nothing():
    images = torch.stack([chest(seed)[0] for seed in range(6)])
    images[2, 0, 35:95, 60:100] = 0.3
    alone, together = lung_masks(images), lung_masks(images, processes=2)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="no AEFLOW_DATA_DIR")
def test_real_lungs_are_found():
    folder = Path(os.environ["AEFLOW_DATA_DIR"], "xray", "train_normal")
    paths = [str(path) for path in sorted(folder.iterdir())[::13][:100]]
    pictures = [PILReader(converter=lambda image: image.convert("L")).read(p) for p in paths]
    images = torch.stack([torch.from_numpy(np.asarray(p) / np.float32(255)) for p in pictures])
    alone = [lung_mask(image[None]) for image in images[::4]]
    assert np.mean([mask is not None for mask in alone]) >= 0.93
    result = lung_masks(images[:, None])
    assert float(result.own.float().mean()) >= 0.88
    # Lungs are darker than what lies between and around them, and fill their usual share.
    dark = [
        float(image[mask].mean() - image[torch.from_numpy(_ring(mask.numpy()))].mean())
        for image, mask in zip(images, result.masks, strict=True)
    ]
    areas = result.masks.float().mean(dim=(1, 2))
    assert np.mean(np.array(dark) < -0.05) >= 0.95
    assert float(((areas > 0.08) & (areas < 0.3)).float().mean()) >= 0.97
    regions = [ndimage.label(mask)[1] for mask in result.masks.numpy()]
    assert np.mean(np.array(regions) == 2) >= 0.97


def _ring(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(mask, iterations=8) & ~ndimage.binary_dilation(
        mask, iterations=2
    )

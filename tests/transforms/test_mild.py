"""Changes that no radiologist minds."""

import pytest
import torch
from torch import Tensor

from transforms.augment import gaussian_blur
from transforms.mild import mild_changes


@pytest.fixture
def images() -> Tensor:
    """Smooth noise in a frame of 0, ``(3, 2, 64, 80)``."""
    noise = torch.rand(3, 2, 64, 80, generator=torch.Generator().manual_seed(0))
    smooth = gaussian_blur(noise, 2.0)
    smooth = (smooth - smooth.amin()) / (smooth.amax() - smooth.amin())
    smooth[..., :6] = smooth[..., -6:] = 0.0
    return smooth


@pytest.mark.parametrize("name", mild_changes())
def test_each_change_is_mild_and_grows(name: str, images: Tensor) -> None:
    once, twice = (mild_changes(strength)[name](images) for strength in (1.0, 2.0))
    for changed in (once, twice):
        assert changed.shape == images.shape and changed.dtype == images.dtype
        assert changed.min() >= 0 and changed.max() <= 1
    first, second = ((changed - images).abs().mean() for changed in (once, twice))
    assert 1e-4 < first < 0.1 and second > 1.2 * first
    assert torch.equal(once, mild_changes()[name](images))


def test_images_of_a_batch_do_not_mix(images: Tensor) -> None:
    for name, change in mild_changes().items():
        if name != "noise":
            torch.testing.assert_close(change(images)[1:2], change(images[1:2]), msg=name)


def test_a_shift_is_one_pixel_of_224(images: Tensor) -> None:
    wide = torch.nn.functional.interpolate(images, size=(224, 224), mode="bilinear")
    moved = mild_changes()["shifted"](wide)
    found = [(moved - wide.roll(shifts, (2, 3)))[..., 4:-4, 4:-4].abs().max()
             for shifts in ((1, 1), (-1, -1))]  # fmt: skip
    assert min(found) < 1e-4

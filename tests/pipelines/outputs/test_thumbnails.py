"""Small pictures of cases."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.cases import Case
from pipelines.data.slices import CaseSample
from pipelines.outputs.thumbnails import SIDE, thumbnail
from pipelines.scoring.cases import ScoredCase
from transforms.slices import Slicer

FakeScored = Callable[..., ScoredCase]
Shown = Callable[..., NDArray[np.float32]]


@pytest.fixture
def shown(fake_scored: FakeScored) -> Shown:
    """The pixels of the thumbnail of two slices, the second with the highest score."""

    def make(image: torch.Tensor, anomaly_map: torch.Tensor) -> NDArray[np.float32]:
        shape = tuple(image.shape)
        sample = CaseSample(
            case=Case("a", "a", (Path("a.png"),)),
            images=torch.stack([torch.ones_like(image), image])[:, None],
            indices=torch.arange(2),
            labels=torch.full((2,), -1),
            masks=None,
            geometry=Slicer(image_size=shape[0]).geometry(torch.zeros(1, *shape)),
            body=torch.ones(2, *shape, dtype=torch.bool),
        )
        scored = fake_scored(sample, [1.0, 2.0])
        scored.canvas_maps["anomaly_map"] = torch.stack([torch.full(shape, 6.0), anomaly_map])
        picture = Image.open(io.BytesIO(thumbnail(scored)))
        assert picture.format == "JPEG"
        return np.asarray(picture.convert("RGB"), np.float32)

    return make


def test_the_highest_slice_is_shown_without_black_borders(shown: Shown) -> None:
    image = torch.zeros(256, 256)
    image[20:236, 74:182] = 0.5
    pixels = shown(image, torch.full((256, 256), 1.9))
    assert pixels.shape == (SIDE, SIDE // 2, 3)
    assert pixels == pytest.approx(127.5, abs=4)  # and no map below 2 standard deviations


def test_a_single_pixel_of_the_map_is_seen(shown: Shown) -> None:
    anomaly_map = torch.zeros(256, 256)
    anomaly_map[128, 64] = 9.0
    pixels = shown(torch.full((256, 256), 0.5), anomaly_map)
    changed = np.abs(pixels - 127.5).max(axis=2)
    assert np.unravel_index(changed.argmax(), changed.shape) == (36, 18)
    assert changed[36, 18] > 20 and np.median(changed) < 4


def test_nothing_to_see_and_tiny_images_have_pictures_too(shown: Shown) -> None:
    assert shown(torch.zeros(16, 16), torch.zeros(16, 16)).shape == (SIDE, SIDE, 3)
    line = torch.zeros(16, 16)
    line[3] = 1.0
    assert shown(line, torch.zeros(16, 16)).shape[1] == SIDE

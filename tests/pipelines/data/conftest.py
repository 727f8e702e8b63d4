"""What the tests of the data share: a volume with a lesion, and a picture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.cases import Case

WriteVolume = Callable[..., Path]


@pytest.fixture
def volume(write_volume: WriteVolume) -> Case:
    """Six slices: 1 shows 19 lesion pixels, 3 shows 20, 4 shows 30, the others none."""
    mask = np.zeros((24, 24, 6), dtype=np.uint8)
    mask[5:24, 8, 1] = 1
    mask[4:9, 4:8, 3] = 2
    mask[4:9, 4:10, 4] = 1
    return Case("a", "pa", (write_volume("image"),), mask=write_volume("mask", mask))


@pytest.fixture
def picture(tmp_path: Path) -> Case:
    levels = np.random.default_rng(0).integers(0, 256, (40, 20), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "xray.png")
    return Case("x", "px", (tmp_path / "xray.png",), label=1)

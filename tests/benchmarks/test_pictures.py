"""The pictures of the documentation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from benchmarks.pictures import draw_rates, draw_scheme, draw_synthetic, draw_throughput
from pipelines.outputs import Example


def test_they_are_drawn(tmp_path: Path) -> None:
    image = np.zeros((32, 32), np.float32)
    image[4:28, 6:26] = np.linspace(0.2, 0.9, 20)
    maps = {name: image * 6 for name in ("bright", "flow", "anomaly_map")}
    example = Example("scored", "case", 3, 1.0, image, image, maps, None)
    draw_scheme(example, tmp_path / "scheme.png")
    batch = torch.from_numpy(image)[None, None]
    draw_synthetic(batch, batch > 0, tmp_path / "synthetic.png")
    draw_rates(tmp_path / "rates.png")
    measured = Path(__file__).parents[2] / "docs" / "throughput.json"
    draw_throughput(json.loads(measured.read_text()), tmp_path / "throughput.png")
    for name in ("scheme", "synthetic", "rates", "throughput"):
        assert np.unique(imread(tmp_path / f"{name}.png")).size > 50


def test_too_few_patients_make_no_curve(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0.05 needs 19 patients, got 18"):
        draw_rates(tmp_path / "rates.png", counts=(18,))

"""Whether promised rates hold, and wrong inputs are told: the tools that measure it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import realised, scope
from networks.conformal import patient_weights
from pipelines.data.phantom.writer import ensure_phantom_dataset


def test_thresholds_by_patient_and_by_image() -> None:
    scores = np.array([5.0, 1.0, 2.0, 3.0, 4.0])
    patients = ["a", "a", "b", "b", "c"]
    assert realised.threshold(scores, patients, 0.05, by_patient=True) == 5.0
    assert realised.threshold(scores, patients, 0.5, by_patient=True) == 4.0
    assert realised.threshold(scores, patients, 0.5, by_patient=False) == 3.0
    assert realised.threshold(scores, ["a"] * 3 + ["b", "c"], 0.5, by_patient=True) == 4.0


def test_the_interval_is_that_of_the_shares_that_occur() -> None:
    low, high = realised.interval(99, 200, 0.05)
    source = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        scores = source.random(99)
        level = realised.threshold(scores, [str(n) for n in range(99)], 0.05, by_patient=True)
        shares.append(float((source.random(200) > level).mean()))
    inside = np.mean([low <= one <= high for one in shares])
    assert 0.94 <= inside <= 0.99 and patient_weights(range(3)).sum() == 3


def test_rates_of_a_model_on_other_normals(
    write_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(volumetric=False, modalities=["image"])
    folder = tmp_path / "normals"
    folder.mkdir()
    for number in range(12):
        levels = np.random.default_rng(number).integers(1, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"p{number}.png")
    realised.main(
        ["--ckpt_dir", str(tmp_path / "models"), "--dataset_dir", str(folder), "--device", "cpu"]
        + ["--draws", "2", "--rates", "0.2", "0.01", "--strength", "2"]
    )
    told = capsys.readouterr().out
    assert "12 normal images of 12 patients, 2 divisions" in told
    assert "| 0.2 | patients |" in told and "| 0.01 (supported 0.143) | patients |" in told
    assert "| none |" in told and "| blur |" in told and "| 0.143 |" in told


def test_wrong_inputs_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ensure_phantom_dataset(tmp_path, patients=6, size=(48, 48, 16))
    scope.main(
        ["--dataset_dir", str(data), "--layout", "brats", "--modalities", "flair"]
        + ["--image_size", "32", "--others", "t2"]
    )
    rows = capsys.readouterr().out.splitlines()
    told = {row.split(" | ")[0].strip("| "): row.split(" | ")[1] for row in rows if "| " in row}
    assert set(scope.WRONG) <= set(told) and told["t2"].endswith("of 6")
    assert told["constant"] == "1 of 1" and told["right, with lesions"] == "0 of 1"


@pytest.mark.parametrize("name", scope.WRONG)
def test_what_is_made_wrong_keeps_its_shape(name: str) -> None:
    image = torch.rand(2, 1, 48, 64)
    size = image.rot90(1, (-2, -1)).shape if "clockwise" in name else image.shape
    changed = scope.WRONG[name](image)
    assert changed.shape == size and 0 <= changed.min() and changed.max() <= 1

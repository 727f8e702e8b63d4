"""Arranges normal X-rays beside themselves, blurred: sharpness alone must not look strange.

    python -m benchmarks.blurred --cases <cases.csv of benchmarks.arrange xray> --output <folder>

Each normal test image is blurred by a Gaussian until its mean absolute vertical difference is that
of the pneumonia image of the same rank. In the table that is written, layout ``list``, the blurred
images count as anomalous: evaluated with a model, their AUROC is 0.5 where sharpness does not
matter.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.arrange import Row, write_table
from transforms.augment import gaussian_blur

WIDEST = 12.0
"""Largest standard deviation of the blur, in pixels."""

HALVINGS = 16
"""Steps in which the standard deviation is found."""


def vertical_difference(image: Tensor) -> float:
    """Mean absolute difference of pixels ``(H, W)`` above each other."""
    return float(image.diff(dim=0).abs().mean())


def blurred_to(image: Tensor, target: float) -> Tensor:
    """Blurs an image ``(H, W)`` to a vertical difference; one that is softer stays as it is."""
    if vertical_difference(image) <= target:
        return image
    low, high = 0.05, WIDEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        sharper = vertical_difference(gaussian_blur(image[None, None], middle)[0, 0]) > target
        low, high = (middle, high) if sharper else (low, middle)
    return gaussian_blur(image[None, None], high)[0, 0]


def blurred_rows(cases: Path, output: Path) -> list[Row]:
    """Writes the blurred images and gives the rows of both.

    Args:
        cases: table of the X-ray experiment.
        output: folder for the blurred images.
    """
    with cases.open(newline="", encoding="utf-8") as file:
        tested = [row for row in csv.DictReader(file) if row["split"] == "test"]
    normals = [row for row in tested if row["label"] == "normal"]
    images = [_read(row["path"]) for row in normals]
    wanted = [vertical_difference(_read(r["path"])) for r in tested if r["label"] == "anomalous"]
    ranks = np.argsort(np.argsort([vertical_difference(image) for image in images]))
    targets = np.quantile(wanted, (ranks + 0.5) / len(images))
    output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for row, image, target in zip(normals, images, targets, strict=True):
        path = (output / f"{Path(row['path']).stem}_blurred.png").resolve()
        values = blurred_to(image, float(target)).round().clamp(0, 255).byte()
        Image.fromarray(values.numpy()).save(path)
        rows.append((row["path"], row["patient"], "normal", "", "test"))
        rows.append((str(path), row["patient"], "anomalous", "", "test"))
    return rows


def _read(path: str) -> Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("L"), dtype=np.float32))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    rows = blurred_rows(options.cases, options.output)
    print(f"{len(rows)} cases: {write_table(options.output, rows)}")


if __name__ == "__main__":
    main()

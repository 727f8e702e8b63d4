"""Draws the pictures of the documentation, from phantoms and a model that was trained on them.

    aeflow train --pretrain_epochs 1 --max_epochs 1
    python -m benchmarks.pictures --ckpt_dir models --output docs

``method_scheme.png``: one slice on its way through the method; ``method_synthetic.png``: the
anomalies that pre-training pastes in; ``calibration_rates.png``: what a promised rate may turn out
to be; ``throughput.png``: the rates in ``throughput.json``, as `benchmarks.throughput` writes them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import beta

from aeflow import Predictor
from networks.conformal import conformal_rank, patient_weights, patients_needed
from pipelines.data import Case, CaseLoader
from pipelines.data.phantom.writer import ensure_phantom_dataset
from pipelines.outputs import Example
from transforms.fillings import FILLINGS
from transforms.recipe import AnomalyRecipe
from transforms.synthetic import SyntheticAnomalies

DPI = 110
SCAN = "Phantom_00000/Phantom_00000_flair.nii.gz"


def draw_scheme(example: Example, path: Path) -> None:
    """A slice, the boxes of the network, and the maps that come out of it.

    Args:
        example: the slice with its reconstruction and maps.
        path: the file to write.
    """
    figure, axes = plt.subplots(figsize=(11, 4.6), layout="constrained")
    boxes = {
        "encoder f\n(frozen)": (2.9, 3.5), "flow\n8 steps": (5.2, 3.5), "decoder g": (7.5, 3.5),
        "density": (2.5, 2.1), "head": (3.7, 2.1),
    }  # fmt: skip
    for text, place in boxes.items():
        axes.text(*place, text, ha="center", va="center", fontsize=11, bbox=BOX)
    shown = example.image.any(axis=0), example.image.any(axis=1)
    columns, rows = (slice(*(np.flatnonzero(one)[[0, -1]] + (-2, 3)).clip(0)) for one in shown)
    pictures = {
        "image x": (example.image, 1.0, 3.5),
        "reconstruction x′": (example.reconstruction, 10.0, 3.5),
    }
    for name, title, x in (
        ("bright", "normative map", 1.0), ("head", "map of the head", 3.7),
        ("flow", "of the flow", 5.4), ("recon", "residual", 7.5),
        ("anomaly_map", "fused map", 10.0),
    ):  # fmt: skip
        pictures[title] = (example.maps.get(name), x, 0.8)
    for title, (image, x, y) in pictures.items():
        if image is None:
            continue
        cmap, top = ("gray", 1.0) if y > 2 else ("magma", 6.0)
        extent = (x - 0.75, x + 0.75, y - 0.75, y + 0.75)
        axes.imshow(image[rows, columns], extent=extent, cmap=cmap, vmin=0, vmax=top)
        axes.text(x, y + 0.8, title, ha="center", fontsize=10)
    arrows = (
        ((1.8, 3.5), (2.25, 3.5)), ((3.55, 3.5), (4.65, 3.5)), ((5.75, 3.5), (6.75, 3.5)),
        ((8.25, 3.5), (9.2, 3.5)), ((1.0, 2.7), (1.0, 1.85)), ((2.8, 3.1), (2.55, 2.4)),
        ((3.1, 3.1), (3.6, 2.4)), ((5.25, 3.1), (5.4, 1.85)),
        ((9.2, 2.8), (8.1, 1.85)), ((8.3, 0.8), (9.2, 0.8)),
    )  # fmt: skip
    for start, end in arrows:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "0.35"})
    for text, x, y in (("z", 4.1, 3.6), ("z′", 6.25, 3.6), ("all maps", 8.75, 0.9)):
        axes.text(x, y, text, ha="center", style="italic", fontsize=11)
    axes.set(xlim=(0.2, 10.8), ylim=(0, 4.6), aspect="equal")
    axes.set_axis_off()
    _save(figure, path)


BOX = {"boxstyle": "round,pad=0.5", "facecolor": "#e8eaf6", "edgecolor": "#3f51b5"}


def draw_synthetic(image: torch.Tensor, body: torch.Tensor, path: Path) -> None:
    """A normal slice, and what each filling makes of it.

    Args:
        image: ``(1, C, H, W)`` in [0, 1].
        body: ``(1, 1, H, W)`` bool.
        path: the file to write.
    """
    figure, axes = plt.subplots(2, 5, figsize=(10, 4.4), layout="constrained")
    axes.flat[0].set_title("normal", fontsize=10)
    axes.flat[0].imshow(image[0, 0], cmap="gray", vmin=0, vmax=1)
    for place, name in zip(axes.flat[1:], FILLINGS, strict=False):
        recipe = AnomalyRecipe(
            clean_share=0.0, second_share=0.0, fillings=(name,), radius=(0.1, 0.13),
            contrast=(0.7, 0.9),
        )  # fmt: skip
        generator = torch.Generator().manual_seed(1)
        bodies = body.expand(8, -1, -1, -1)
        pasted, masks = SyntheticAnomalies(recipe)(
            image.expand(8, -1, -1, -1), bodies, bodies.float(), generator
        )
        best = int((masks.flatten(1).sum(dim=1)).argmax())
        place.imshow(pasted[best, 0], cmap="gray", vmin=0, vmax=1)
        if masks[best].any():
            place.contour(masks[best, 0], levels=[0.5], colors="tab:orange", linewidths=1)
        place.set_title(name, fontsize=10)
    for place in axes.flat:
        place.set_axis_off()
    _save(figure, path)


def draw_rates(path: Path, rate: float = 0.05, counts: Sequence[int] = (19, 99, 499)) -> None:
    """How the realised rate is distributed, by the number of calibration patients.

    Of n exchangeable patients the threshold is the score of rank k; the share of new patients above
    it follows a beta distribution with the parameters n + 1 - k and k.

    Args:
        path: the file to write.
        rate: the promised one.
        counts: numbers of patients, each enough for the rate.
    """
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    realised = np.linspace(0.0, 0.2, 401)
    for count in counts:
        if count < patients_needed(rate):
            raise ValueError(f"counts: {rate} needs {patients_needed(rate)} patients, got {count}.")
        rank = conformal_rank(patient_weights(range(count)), rate) + 1
        density = beta(count + 1 - rank, rank).pdf(realised)
        axes.plot(100 * realised, density / 100, label=f"{count} patients")
    axes.axvline(100 * rate, color="0.5", linestyle=":", label="promised")
    axes.set(xlabel="normal images that are flagged, %", ylabel="density", xlim=(0, 20), ylim=0)
    axes.legend(frameon=False)
    _save(figure, path)


def draw_throughput(found: Mapping[str, Any], path: Path) -> None:
    """Images per second, beside the reproduction.

    Args:
        found: what `benchmarks.throughput` writes.
        path: the file to write.
    """
    figure, places = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained", sharey=True)
    for axes, phase in zip(places, ("training", "scoring"), strict=True):
        rows = [one for one in found["variants"] if one["phase"] == phase][::-1]
        rates = [one["images_per_second"] for one in rows]
        named = [one["name"] + (", compiled" if one["compiled"] else "") for one in rows]
        base = max(r for r, name in zip(rates, named, strict=True) if "reproduction" in name)
        colours = ["0.6" if "reproduction" in name else "#3f51b5" for name in named]
        bars = axes.barh(named, rates, color=colours)
        axes.bar_label(bars, [f"{rate / base:.2f}" for rate in rates], padding=3, fontsize=8)
        axes.set(title=phase, xlabel="images/s", xlim=(0, 1.15 * max(rates)))
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(found["device"], fontsize=9, x=0.99, ha="right")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--ckpt_dir", type=Path, default=Path("models"))
    parser.add_argument("--output", type=Path, default=Path("docs"))
    options = parser.parse_args(arguments)
    scan = ensure_phantom_dataset() / SCAN
    found = Predictor(options.ckpt_dir, "cpu")(scan)
    assert not isinstance(found, list)
    draw_scheme(found.example, options.output / "method_scheme.png")
    sample = CaseLoader(160, volumetric=True)(Case("normal", "normal", (scan,)))
    middle = len(sample.images) // 2
    draw_synthetic(
        sample.images[middle][None],
        sample.context["body"][middle][None],
        options.output / "method_synthetic.png",
    )
    draw_rates(options.output / "calibration_rates.png")
    measured = options.output / "throughput.json"
    if measured.is_file():
        draw_throughput(json.loads(measured.read_text()), options.output / "throughput.png")


if __name__ == "__main__":
    main()

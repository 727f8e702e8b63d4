"""What bfloat16 and compiling change: scores of the same images against those in 32 bits.

``python -m benchmarks.precision --ckpt_dir <model> --input <folder>`` scores the images of a
folder, and their mirror images, once as a GPU runs the model and once in float32, eagerly. It
prints the rank correlation and on how many images the decision differs, ties apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from scipy.stats import spearmanr
from torch import Tensor

from networks import AnomalyScorer
from pipelines.common import choose_device, track
from pipelines.data import find_inputs, model_loader, require_slices
from pipelines.scoring import ScoreSlices, load_scorer, read_model

TIE = 1e-3
"""Distance from the threshold, in standard deviations, within which a decision may differ."""


def mirrored(parts: Sequence[Tensor]) -> Tensor:
    """Parts ``(K, C, H, W)`` in one, and behind them their mirror images."""
    whole = torch.cat(list(parts))
    return torch.cat([whole, whole.flip(-1)])


def compared(reference: Tensor, found: Tensor, threshold: float) -> dict[str, float]:
    """How scores ``(N,)`` differ from a reference."""
    differs = (reference > threshold) != (found > threshold)
    clear = (reference - threshold).abs() > TIE
    return {
        "images": len(reference),
        "rank_correlation": float(spearmanr(reference, found).statistic),
        "largest_difference": float((reference - found).abs().max()),
        "other_decisions": int((differs & clear).sum()),
        "ties": int((~clear).sum()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ckpt_dir", required=True)
    parser.add_argument("--input", required=True, help="folder of images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, default=1_000_000, help="images at most")
    parser.add_argument("--no_compile", action="store_true", help="where there is no compiler")
    options = parser.parse_args(arguments)
    model, device = read_model(options.ckpt_dir), choose_device(options.device)
    reference, loader = load_scorer(model, device), model_loader(model)
    cases = find_inputs(model, options.input).cases[: options.limit]
    samples = [
        require_slices(loader(case)) for case in track(cases, "Reading", len(cases), "cases")
    ]
    images = mirrored([sample.images for sample in samples])
    context = {
        name: mirrored([sample.context[name] for sample in samples])
        for name in reference.detector.needs
    }

    def scores(scorer: AnomalyScorer) -> Tensor:
        with torch.no_grad():
            return ScoreSlices()(images, scorer, context, device)["score"].double()

    reference.amp = False
    expected = scores(reference)
    for name in ("reduced", "reduced and compiled")[: 1 if options.no_compile else 2]:
        scorer = load_scorer(model, device)
        if "compiled" in name:
            scorer.accelerate()
        found = compared(expected, scores(scorer), float(scorer.calibration.threshold))
        print(f"{name}: {', '.join(f'{key} {value:.6g}' for key, value in found.items())}")


if __name__ == "__main__":
    main()

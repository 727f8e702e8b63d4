"""What exporting costs and gives: agreement of every format, onnxruntime's time beside PyTorch's.

    python -m benchmarks.exports --ckpt_dir bundles/aeflow/models

Both run on the CPU with the same number of threads, in one process, taking turns; each repeat gives
one pair of times. The ratio is the median over the pairs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from networks.exported import ExportedScorer
from pipelines.export import FORMATS, Parity, export_model, load_onnx
from pipelines.scoring import load_scorer, read_model
from transforms.errors import InputError

Run = Callable[[Tensor], object]
WARM_UP = 2


class Timing(NamedTuple):
    """Medians over paired repeats.

    Attributes:
        batch: images per call.
        torch_ms: milliseconds of a call in PyTorch.
        onnx_ms: milliseconds of a call in onnxruntime.
        ratio: of onnxruntime's time to PyTorch's; below 1 onnxruntime is faster.
    """

    batch: int
    torch_ms: float
    onnx_ms: float
    ratio: float


def paired_times(first: Run, second: Run, image: Tensor, repeats: int) -> list[tuple[float, float]]:
    """Times two functions in turns, each going first every other time.

    Args:
        first: called with the image.
        second: likewise.
        image: ``(B, C, H, W)``.
        repeats: number of pairs, after a few that are thrown away.

    Returns:
        Pairs of milliseconds, (first, second).
    """
    pairs = []
    for number in range(WARM_UP + repeats):
        if number % 2:
            late, early = _milliseconds(second, image), _milliseconds(first, image)
            pairs.append((early, late))
        else:
            pairs.append((_milliseconds(first, image), _milliseconds(second, image)))
    return pairs[WARM_UP:]


def _milliseconds(run: Run, image: Tensor) -> float:
    begin = time.perf_counter()
    run(image)
    return 1000.0 * (time.perf_counter() - begin)


def parity_table(ckpt_dir: Path, folder: Path) -> dict[str, Parity]:
    """Exports a model in every format into a folder and returns how well each agrees."""
    return {
        name: export_model(ckpt_dir, name, folder / f"model{kind.suffix}").parity
        for name, kind in FORMATS.items()
    }


def time_onnx(
    ckpt_dir: Path, exported: Path, batches: Sequence[int], repeats: int, threads: int
) -> list[Timing]:
    """Times an ONNX file beside the model that it was made from.

    Args:
        ckpt_dir: the model file or its folder.
        exported: the ONNX file.
        batches: numbers of images per call.
        repeats: pairs of times per batch size.
        threads: for either program.
    """
    content = read_model(ckpt_dir)
    scorer = ExportedScorer(load_scorer(content), content["preprocessing"]["image_size"])
    run_onnx, _ = load_onnx(exported, threads=threads)
    channels = scorer.detector.in_channels
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    timings = []
    try:
        with torch.inference_mode():
            for batch in batches:
                image = torch.rand(batch, channels, *scorer.image_size)
                pairs = paired_times(scorer, run_onnx, image, repeats)
                ours, theirs = zip(*pairs, strict=True)
                ratio = median(onnx / own for own, onnx in pairs)
                timings.append(Timing(batch, median(ours), median(theirs), ratio))
    finally:
        torch.set_num_threads(before)
    return timings


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--ckpt_dir", type=Path, required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            table = parity_table(options.ckpt_dir, Path(folder))
            timings = time_onnx(
                options.ckpt_dir,
                Path(folder) / "model.onnx",
                options.batches,
                options.repeats,
                options.threads,
            )
    except InputError as error:
        parser.exit(1, f"Error: {error}\n")
    print("| format | images | score | map | percentile | flagged differently |")
    print("|---|---|---|---|---|---|")
    for name, one in table.items():
        figures = f"{one.score:.1e} | {one.anomaly_map:.1e} | {one.percentile:.1e} | {one.flagged}"
        print(f"| {name} | {one.images} | {figures} |")
    print(f"\nMedians of {options.repeats} pairs, threads: {options.threads}\n")
    print("| batch | PyTorch ms | onnxruntime ms | ratio |")
    print("|---|---|---|---|")
    for row in timings:
        print(f"| {row.batch} | {row.torch_ms:.1f} | {row.onnx_ms:.1f} | {row.ratio:.2f} |")


if __name__ == "__main__":
    main()

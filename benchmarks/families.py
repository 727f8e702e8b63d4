"""Leaves one family of synthetic anomalies out of the training at a time, and looks for it.

    python -m benchmarks.families --dataset_dir <folder> --output <folder> [--region body]
        [--families tissue,foreign] -- [options of the training]

For every filling a training withholds it; then the normal images of the test part are ranked
against the same images with that filling pasted in. A row per filling: the AUROC of the score and
of each part. No label is read, so that the table may decide fillings and pools.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from networks import AnomalyScorer
from pipelines.common import choose_device
from pipelines.data import NormalSlices, Regions, model_loader, open_data_like, slice_loader
from pipelines.scoring import load_scorer, read_model, with_and_without
from transforms.fillings import FILLINGS
from transforms.recipe import recipe_for, withheld_recipe
from transforms.synthetic import SyntheticAnomalies

CONFIG = "bundles/aeflow/train.json"
SEED = 0


def train_without(family: str, folder: Path, arguments: Sequence[str]) -> None:
    """Trains into a folder, with a filling withheld; what was trained before is kept."""
    if (folder / "model.pt").is_file():
        return
    places = ["--output_dir", str(folder / "output"), "--ckpt_dir", str(folder)]
    chosen = ["--withheld", family, "--tracking_uri", "none", "--save_maps", "False"]
    command = [sys.executable, "-m", "monai.bundle", "run", "training"]
    config = [] if "--config_file" in arguments else ["--config_file", CONFIG]
    subprocess.run([*command, *config, *places, *chosen, *arguments], check=True)


def found(
    scorer: AnomalyScorer, batches: Iterable[Mapping[str, Tensor]], synthetic: SyntheticAnomalies
) -> dict[str, float]:
    """AUROC by score, of images with anomalies against the same images without.

    Args:
        scorer: a calibrated scorer.
        batches: normal images with body, region, and what the detector needs.
        synthetic: makes the anomalies; images where none shows are left out.
    """
    device = next(scorer.buffers()).device
    values: dict[str, list[Tensor]] = {}
    labels: list[Tensor] = []
    for seen, hit, batch in with_and_without(batches, synthetic, SEED, "families", device):
        shows = hit.flatten(1).any(dim=1)
        kept = shows | ~shows.any()
        context = {name: batch[name] for name in scorer.detector.needs}
        with torch.no_grad():
            scores = scorer.score_image(seen, context)
        for name, value in ({"score": scores.score} | scores.parts).items():
            values.setdefault(name, []).append(value[kept].cpu())
        labels.append(shows[kept].cpu())
    truth = torch.cat(labels).numpy()
    return {n: float(roc_auc_score(truth, torch.cat(v).numpy())) for n, v in values.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--region", default="body")
    parser.add_argument("--families", help="fillings, by default all of the region's recipe")
    parser.add_argument("training", nargs="*", help="options of the training, after --")
    options = parser.parse_args(arguments)
    recipe = recipe_for(options.region)
    families = options.families.split(",") if options.families else sorted({*recipe.fillings})
    unknown = [name for name in families if name not in FILLINGS]
    if unknown:
        parser.error(f"--families: there is no {unknown[0]!r} among {', '.join(FILLINGS)}.")
    given = ["--dataset_dir", options.dataset_dir, "--region", options.region, *options.training]
    for family in families:
        folder = options.output / family
        train_without(family, folder, given)
        model = read_model(folder)
        scorer = load_scorer(model, choose_device("auto"))
        cases = open_data_like(model, options.dataset_dir).split.test
        normals = NormalSlices(cases, model_loader(model), regions=Regions(options.region))
        synthetic = SyntheticAnomalies(withheld_recipe(options.region, family))
        row = found(scorer, slice_loader(normals, 32), synthetic)
        print(f"{family:12}", "  ".join(f"{name} {value:.3f}" for name, value in row.items()))


if __name__ == "__main__":
    main()

"""Takes a method through the bundle: ``python walk.py <name> <data> <folder>``, in a checkout."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, run
from monai.data import decollate_batch

from pipelines.export import formats

TINY: dict[str, Any] = {
    "image_size": 32,
    "pretrain_epochs": 1,
    "pretrain_epoch_size": 32,
    "max_epochs": 2,
    "batch_size": 16,
    "target_fpr": 0.2,
}


def served(ckpt_dir: str, image: str) -> dict[str, Any]:
    """What a server makes of a file with the parts of inference.json."""
    parser = ConfigParser()
    parser.read_config("bundles/aeflow/inference.json")
    parser.update({"ckpt_dir": ckpt_dir, "device": "cpu"})
    names = ("pre_transforms", "inferer", "network_def", "post_transforms")
    pre, inferer, network, post = (parser.get_parsed_content(name) for name in names)
    data = pre({"image": image})
    with torch.no_grad():
        data["pred"] = decollate_batch(inferer(data["image"][None], network))[0]
    result: dict[str, Any] = post(data)["result"]
    return result


def main(name: str, data: str, folder: str) -> None:
    configs = [f"bundles/aeflow/{one}.json" for one in ("train", name)]
    models, case = f"{folder}/models", sorted(Path(data).iterdir())[0]
    image = str(next(case.glob("*_flair.nii.gz")))
    off: dict[str, Any] = {"ckpt_dir": models, "device": "cpu"}
    tracked: dict[str, Any] = {"dataset_dir": data, "tracking_uri": "none"}
    run("training", config_file=configs, output_dir=f"{folder}/output", **off, **tracked, **TINY)
    again = {"config_file": "bundles/aeflow/evaluate.json", "output_dir": f"{folder}/evaluation"}
    run("evaluating", **again, **off, **tracked)
    new = {"config_file": "bundles/aeflow/inference.json", "output_dir": f"{folder}/inference"}
    run("inferring", input=image, **new, **off)
    Path(folder, "served.json").write_text(json.dumps(served(models, image)))
    formats.main(["--ckpt_dir", models, "--format", "torch_export"])


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What the model card of a package tells: what it is, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data import reads_signals, seen_size
from pipelines.scoring import LABELS, MODEL_NAME

_COMMAND_LINE = ("fire", "tqdm", "pillow")

_README = """## This package

The model was made {created} from {kind} of {modalities}; its network sees {seen}.
A {map} value above {threshold:.2f} standard deviations is suspicious; {fpr:.3g} % of the {points}
of held-out normal {image}s are.

It brings its own code, in `networks`, `pipelines` and `transforms`. It needs Python 3.11 or newer,
and:

```bash
pip install {requirements}
```

From this folder, so that Python takes the code in it, also where AE-Flow is installed:

```bash
run="python -m monai.bundle run --config_file"
$run configs/inference.json --input <{image} or folder> --output_dir <folder>
$run configs/evaluate.json --dataset_dir <data> --output_dir <folder>
$run {train} --dataset_dir <data> --ckpt_dir <new folder>
```

For MONAI's model zoo and the Hugging Face hub, from this folder too, with
`pip install jsonschema huggingface_hub`; the first downloads MONAI's schema, the last uploads.
`trt_export` is not supported.

```bash
bundle="python -m monai.bundle"
$bundle verify_metadata --meta_file configs/metadata.json --filepath eval/schema.json
$bundle verify_net_in_out --net_id network_def --meta_file configs/metadata.json \\
  --config_file configs/inference.json
$bundle ckpt_export --config_file configs/inference.json --filepath models/model.ts
$bundle push_to_hf_hub --repo <user or organisation>/<name> --name <this folder> --bundle_dir ..
```

{served}

{names}

Data and figures below are those of the project's own experiments, not of this model.

"""

_SIGNALS_SERVED = """`models/model.ts` takes one tensor, windows `(B, C, {size})`
cut and scaled as in the training, and returns trace, score, percentile and decision; `donut` takes
one channel more, 1 where there is a sample. EDF and WFDB files need `pip install edfio wfdb` too.
MONAI Label does not serve this package: its viewers, 3D Slicer and OHIF, show no signals."""

_IMAGES_SERVED = """A value above the percentile `very_suspicious` of these
pixels (in `configs/inference.json`) is very suspicious.

`models/model.ts` takes one tensor, as `pre_transforms` in `configs/inference.json` give it, and
returns map, score, percentile and decision.

MONAI Label's own app serves the package as a segmentation with the labels {labels}.
Put this folder into `model/` of the `monaibundle` app, under a name without `deepedit`,
`deepgrow`, `detection` or `classification`, and start

```bash
monailabel start_server --app monaibundle --studies <folder> --host 127.0.0.1 \\
  --conf models <name> --conf zoo_source local --conf sam2 false --conf skip_trainers true
```

Start it again after `models/{model}` was replaced. It does not train this model."""

_NAMED = """`models/{model}` holds the names of the {count} cases that it was trained, calibrated
and tested on, so that an evaluation leaves out those that it has seen. Package it
without `--keep_names` before handing it to others if these names tell who someone is."""

_STRIPPED = """The names of the cases that the model was trained on were removed. An evaluation
leaves out what it has seen by fingerprints of the files' content; a file that was converted since
is not recognised."""


def describe_package(
    content: Mapping[str, Any], metadata: Mapping[str, Any], stripped: bool
) -> str:
    """The part of the model card that tells what this package is and how it is run.

    Args:
        content: of the model file.
        metadata: of the package; names the versions that are needed.
        stripped: whether the names of the cases were removed.
    """
    signals, size = reads_signals(content), " x ".join(map(str, seen_size(content)))
    served = _SIGNALS_SERVED if signals else _IMAGES_SERVED
    versions = {
        "torch": metadata["pytorch_version"],
        "monai": metadata["monai_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }
    wanted = [f"{name}=={version}" for name, version in versions.items()]
    wanted += [name for name in _COMMAND_LINE if name not in versions]
    count = sum(len(names) for names in content["split"].values())
    return _README.format(
        created=content["created"],
        kind="signals" if signals else "volumes" if content["volumetric"] else "pictures",
        image="signal" if signals else "image",
        map="trace" if signals else "map",
        points="samples" if signals else "pixels",
        modalities=", ".join(content["modalities"]),
        train="\"['configs/train.json','configs/signals.json']\""
        if signals
        else "configs/train.json",
        seen=f"windows of {size} samples" if signals else f"{size} pixels",
        threshold=float(content["model"]["calibration.pixel_threshold"]),
        fpr=100 * float(content["model"]["calibration.pixel_fpr"]),
        requirements=" ".join(wanted),
        served=served.format(
            labels=" and ".join(f"`{name}` ({value})" for name, value in LABELS.items()),
            model=MODEL_NAME,
            size=size,
        ),
        names=_STRIPPED if stripped else _NAMED.format(model=MODEL_NAME, count=count),
    )

"""Packs a trained model with all that runs it into one folder, in the layout of MONAI's model zoo.

    python -m pipelines.export.package bundles/aeflow --output aeflow

The folder holds the configs, the model, the documents and the code. ``python -m monai.bundle run``
runs it from its own folder, and MONAI Label's ``monaibundle`` app serves it, wherever the packages
that its README names are installed; AE-Flow itself need not be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import files
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

import networks
import pipelines
import transforms
from pipelines.common import installed_version, writable_folder, write_json
from pipelines.data import PHANTOM_NOTE, require_images
from pipelines.scoring import LABELS, MODEL_NAME, read_model
from transforms.errors import InputError

NEEDED = (
    *("train.json", "evaluate.json", "inference.json", "metadata.json", "logging.conf"),
    *("docs/README.md", "docs/data_license.txt"),
)
"""Files that a folder must hold to be packed."""

NOTES_REMOVED = "What was noted about the training data was removed with the names of its cases."

_NO_CODE = shutil.ignore_patterns("__pycache__", ".*", "*.py[co]", "*~")
_COMMAND_LINE = ("fire", "tqdm", "pillow")
_HOW_TO_RUN = re.compile(r"^## How to run it$.*?(?=^## )", re.MULTILINE | re.DOTALL)
"""The part of the model card that holds in a clone only."""

LARGE_FILES = "large_files.yml"
ZOO_LIMIT = 25_000_000
"""Bytes of a file that the model zoo takes; of a larger one it wants the address."""

_README = """## This package

The model was made {created} from {kind} of {modalities}; its network sees {height} x {width}
pixels. A map value above {threshold:.2f} standard deviations is suspicious; {fpr:.3g} % of the
pixels of held-out normal images are. One above the percentile `very_suspicious` of these pixels (in
`configs/inference.json`) is very suspicious.

It brings its own code, in `networks`, `pipelines` and `transforms`. It needs Python 3.11 or newer,
and:

```bash
pip install {requirements}
```

From this folder, so that Python takes the code in it, also where AE-Flow is installed:

```bash
run="python -m monai.bundle run --config_file"
$run configs/inference.json --input <image or folder> --output_dir <folder>
$run configs/evaluate.json --dataset_dir <data> --output_dir <folder>
$run configs/train.json --dataset_dir <data> --ckpt_dir <new folder>
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

`models/model.ts` takes one tensor, as `pre_transforms` in `configs/inference.json` give it, and
returns map, score, percentile and decision.

MONAI Label's own app serves the package as a segmentation with the labels {labels}.
Put this folder into `model/` of the `monaibundle` app, under a name without `deepedit`,
`deepgrow`, `detection` or `classification`, and start

```bash
monailabel start_server --app monaibundle --studies <folder> --host 127.0.0.1 \\
  --conf models <name> --conf zoo_source local --conf sam2 false --conf skip_trainers true
```

Start it again after `models/{model}` was replaced. It does not train this model.

{names}

Data and figures below are those of the project's own experiments, not of this model.

"""

_NAMED = """`models/{model}` holds the names of the {count} cases that it was trained, calibrated
and tested on, so that an evaluation leaves out those that it has seen. Package it
without `--keep_names` before handing it to others if these names tell who someone is."""

_STRIPPED = """The names of the cases that the model was trained on were removed. An evaluation
leaves out what it has seen by fingerprints of the files' content; a file that was converted since
is not recognised."""


def package_bundle(
    bundle: Path, ckpt_dir: Path, output: Path, keep_names: bool = False
) -> dict[str, Any]:
    """Writes a self-contained bundle, whole or not at all.

    Args:
        bundle: folder of the configs, ``bundles/aeflow``.
        ckpt_dir: the model file or the folder that holds it.
        output: the folder to write; must not exist yet, or be empty.
        keep_names: whether the model file keeps the names of its cases; else numbers replace them,
            and the notes on the data, which can hold such names too, are left out.

    Returns:
        The content of the packaged model file.

    Raises:
        InputError: for an incomplete bundle, a missing model, an output folder that cannot be
            taken, or a model whose names cannot be removed.
    """
    output = output.expanduser().resolve()
    missing = [name for name in NEEDED if not (bundle / name).is_file()]
    if missing:
        raise InputError(
            f"bundle: expected the folder of a bundle's configs, such as bundles/aeflow; {bundle} "
            f"lacks {', '.join(missing)}."
        )
    content = read_model(ckpt_dir)
    require_images(content, "package")
    licence = _licence(bundle)
    _check_output(output, bundle)
    if not keep_names:
        content = without_names(content)
    with _appearing(output) as folder:
        _write_configs(folder / "configs", bundle, content)
        (folder / "models").mkdir()
        if keep_names:
            source = ckpt_dir / MODEL_NAME if ckpt_dir.is_dir() else ckpt_dir
            shutil.copyfile(source, folder / "models" / MODEL_NAME)
        else:
            torch.save(content, folder / "models" / MODEL_NAME)
        _write_large_files(folder)
        shutil.copytree(bundle / "docs", folder / "docs", ignore=_NO_CODE)
        readme = folder / "docs" / "README.md"
        metadata = json.loads((folder / "configs" / "metadata.json").read_text())
        told = describe_package(content, metadata, not keep_names)
        readme.write_text(_HOW_TO_RUN.sub(lambda _: told, readme.read_text(), count=1))
        shutil.copyfile(licence, folder / "LICENSE")
        for source in code_folders():
            shutil.copytree(source, folder / source.name, ignore=_NO_CODE)
    return content


def packaged_metadata(metadata: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a bundle with one model: its channels, and the labels that a server shows.

    Args:
        metadata: of the bundle.
        content: of the model file.
    """
    count = int(content["config"]["in_channels"])
    names = list(content["modalities"])
    if len(names) != count:  # the colours of a picture
        names = [f"{names[0]} {index}" for index in range(count)]
    tensors = metadata["network_data_format"]
    image = tensors["inputs"]["image"] | {
        "modality": ", ".join(content["modalities"]),
        "num_channels": count,
        "channel_def": {str(index): name for index, name in enumerate(names)},
    }
    labels = {"0": "background"} | {str(value): name for name, value in LABELS.items()}
    pred = tensors["outputs"]["pred"] | {"channel_def": labels}
    told = ", ".join(f"{value} {name}" for value, name in labels.items())
    return {
        **metadata,
        "pred_classes": f"{metadata['pred_classes']}; served as a label map: {told}",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


def without_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a model file with numbers in the place of the cases' names.

    Numbers rather than hashes: who guesses a name can hash it too. Cases that the model has seen
    are still known by the fingerprints of their files.

    Raises:
        InputError: when the model holds no such fingerprints.
    """
    split = content["split"]
    if (split["train"] or split["calibration"]) and not content.get("seen"):
        raise InputError(
            "keep_names: this model knows the cases that it has seen by their names alone, so an "
            "evaluation without them would count cases that it was trained on. Train it again "
            "with this version, or package it with its names (--keep_names)."
        )
    numbered = {
        part: [f"{part}-{number}" for number in range(1, len(names) + 1)]
        for part, names in split.items()
    }
    kept = [note for note in content["notes"] if note == PHANTOM_NOTE]
    lost = [NOTES_REMOVED] if len(kept) < len(content["notes"]) else []
    return {**content, "split": numbered, "notes": [*kept, *lost]}


def describe_package(
    content: Mapping[str, Any], metadata: Mapping[str, Any], stripped: bool
) -> str:
    """The part of the model card that tells what this package is and how it is run.

    Args:
        content: of the model file.
        metadata: of the package; names the versions that are needed.
        stripped: whether the names of the cases were removed.
    """
    height, width = content["preprocessing"]["image_size"]
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
        kind="volumes" if content["volumetric"] else "pictures",
        modalities=", ".join(content["modalities"]),
        height=height,
        width=width,
        threshold=float(content["model"]["calibration.pixel_threshold"]),
        fpr=100 * float(content["model"]["calibration.pixel_fpr"]),
        requirements=" ".join(wanted),
        labels=" and ".join(f"`{name}` ({value})" for name, value in LABELS.items()),
        model=MODEL_NAME,
        names=_STRIPPED if stripped else _NAMED.format(model=MODEL_NAME, count=count),
    )


def _write_configs(folder: Path, bundle: Path, content: Mapping[str, Any]) -> None:
    folder.mkdir()
    for source in (*sorted(bundle.glob("*.json")), bundle / "logging.conf"):
        shutil.copyfile(source, folder / source.name)
    metadata = json.loads((bundle / "metadata.json").read_text())
    write_json(folder / "metadata.json", packaged_metadata(metadata, content))


def _write_large_files(folder: Path) -> None:
    """Lists the model file where the zoo takes no file of its size."""
    path = folder / "models" / MODEL_NAME
    if path.stat().st_size <= ZOO_LIMIT:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    listed = {
        "path": f"models/{MODEL_NAME}",
        "url": f"<address of {MODEL_NAME}>",
        "hash_val": found,
        "hash_type": "sha256",
    }
    ConfigParser.export_config_file(
        {"large_files": [listed]}, str(folder / LARGE_FILES), fmt="yaml", sort_keys=False
    )


def code_folders() -> list[Path]:
    """The folders of the code that runs a model."""
    return [Path(str(one.__file__)).resolve().parent for one in (networks, pipelines, transforms)]


def _licence(bundle: Path) -> Path:
    """The bundle's own licence, or that of the clone or of the installation it lies in."""
    installed = files("aeflow") or () if installed_version("aeflow") else ()
    kept = [Path(str(one.locate())) for one in installed if one.name == "LICENSE"]
    for path in (bundle / "LICENSE", bundle.resolve().parents[1] / "LICENSE", *kept):
        if path.is_file():
            return path
    raise InputError(
        f"bundle: there is no file LICENSE in {bundle} nor where it is kept or installed. Put one "
        "there: a package is handed on with its licence."
    )


def _check_output(output: Path, bundle: Path) -> None:
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        found = "a file" if output.is_file() else "a folder that is not empty"
        raise InputError(
            f"output: {output} is {found}. Name a folder that does not exist yet with --output."
        )
    for source in (bundle.resolve(), *code_folders()):
        if source in (output, *output.parents):
            raise InputError(
                f"output: {output} lies in {source}, which is packed itself. Name a folder "
                "elsewhere with --output."
            )


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that takes the place of ``folder`` when the block ends well."""
    writable_folder(folder.parent, "output")
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            if folder.exists():
                folder.rmdir()
            temporary.rename(folder)
        except OSError as error:
            raise InputError(
                f"output: {folder} cannot be put in place ({error.strerror}). Name a folder that "
                "does not exist yet with --output."
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.export.package", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("bundle", type=Path, help="folder of the configs: bundles/aeflow")
    parser.add_argument("--ckpt_dir", type=Path, help="folder of model.pt; models in the bundle")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--keep_names",
        action="store_true",
        help="keep the case names in model.pt and the notes on the data, for oneself",
    )
    options = parser.parse_args(arguments)
    try:
        ckpt_dir = options.ckpt_dir or options.bundle / "models"
        content = package_bundle(options.bundle, ckpt_dir, options.output, options.keep_names)
    except InputError as error:
        parser.exit(1, f"Error: {error}\n")
    count = sum(len(names) for names in content["split"].values())
    told = f"of {count} cases are in it" if options.keep_names else "removed (see --keep_names)"
    print(f"{options.output}: packaged; case names {told}. How to run it: docs/README.md in it.")
    if (options.output / LARGE_FILES).is_file():
        print(
            f"models/{MODEL_NAME} is larger than the {ZOO_LIMIT / 1e6:.0f} MB that MONAI's model "
            f"zoo takes: to hand it in there, upload the file, put its address into {LARGE_FILES} "
            "and leave the file out. The Hugging Face hub takes it as it is."
        )


if __name__ == "__main__":
    main()

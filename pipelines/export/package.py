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
from pipelines.data import PHANTOM_NOTE, reads_signals, seen_size
from pipelines.export.card import describe_package
from pipelines.scoring import LABELS, MODEL_NAME, read_model
from transforms.errors import InputError

NEEDED = (
    *("train.json", "evaluate.json", "inference.json", "metadata.json", "logging.conf"),
    *("docs/README.md", "docs/data_license.txt"),
)
"""Files that a folder must hold to be packed."""

NOTES_REMOVED = "What was noted about the training data was removed with the names of its cases."

_NO_CODE = shutil.ignore_patterns("__pycache__", ".*", "*.py[co]", "*~")
_HOW_TO_RUN = re.compile(r"^## How to run it$.*?(?=^## )", re.MULTILINE | re.DOTALL)
"""The part of the model card that holds in a clone only."""

LARGE_FILES = "large_files.yml"
ZOO_LIMIT = 25_000_000
"""Bytes of a file that the model zoo takes; of a larger one it wants the address."""


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

    Of signals they tell the windows, and no labels.

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
    if reads_signals(content):
        series = {
            "type": "series", "format": "sequence", "spatial_shape": list(seen_size(content)),
            "is_patch_data": True,
        }  # fmt: skip
        told = "standard deviations above the samples of held-out normal signals"
        pred = tensors["outputs"]["pred"] | series | {"channel_def": {"0": told}}
        return {
            **metadata,
            "task": "Unsupervised anomaly detection in signals",
            "data_type": "CSV, NumPy, EDF, WFDB",
            "pred_classes": f"anomaly trace in {told}",
            "network_data_format": {"inputs": {"image": image | series}, "outputs": {"pred": pred}},
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

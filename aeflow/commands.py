"""The commands that run the bundle, and the options of each; quick to import."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.common import plain_options

BUNDLE = Path(__file__).parents[1] / "bundles" / "aeflow"
"""The configs: in a checkout and beside an installed package alike."""

PRESETS = ("quick", "standard", "best", "gpu", "paper", "volumes")
"""Ways to train; see `config_names`."""


@dataclass(frozen=True)
class Command:
    """A command that runs the bundle.

    Attributes:
        run_id: what of the config runs.
        config: name of the config file, without suffix.
        argument: the option that stands without dashes behind the command.
        summary: what it does, in a few words.
        folders: where results go unless said otherwise, in the folder that one is in.
    """

    run_id: str
    config: str
    argument: str
    summary: str
    folders: Mapping[str, str] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        """Its options with their defaults, as the config has them and the folders."""
        config = json.loads((BUNDLE / f"{self.config}.json").read_text())
        options = {n: v for n, v in plain_options(config).items() if str(v)[:1] != "@"}
        return {**options, **self.folders}

    def config_files(self, on_top: Sequence[str] = ()) -> list[str]:
        """The config, and others of the bundle that lie over it."""
        return [str(BUNDLE / f"{name}.json") for name in (self.config, *on_top)]


def config_names(
    preset: str, gpu: bool, volumetric: bool, signals: bool = False
) -> tuple[str, ...]:
    """The bundle's configs that a preset lays over ``train.json``.

    Args:
        preset: one of `PRESETS`; ``auto`` stands for ``standard``.
        gpu: whether a GPU computes.
        volumetric: whether the data are volumes.
        signals: whether they are signals.

    Example:
        >>> config_names("standard", gpu=True, volumetric=True)
        ('gpu', 'gpu_volumes')
    """
    if signals:
        return ("signals", *config_names(preset, gpu, volumetric=False))
    if preset in ("quick", "gpu", "paper"):
        return (preset,)
    if preset == "volumes":
        return ("gpu", preset) if gpu else (preset,)
    if preset != "best" and not gpu:
        return ()
    return ("gpu", "gpu_volumes") if volumetric else ("gpu",)


_MODELS = {"ckpt_dir": "models"}
COMMANDS: Mapping[str, Command] = {
    "train": Command(
        "training", "train", "dataset_dir", "learn from a folder of normal images, then calibrate",
        {"output_dir": "output", **_MODELS},
    ),
    "evaluate": Command(
        "evaluating", "evaluate", "dataset_dir", "measure a trained model on labelled images",
        {"output_dir": "evaluation", **_MODELS},
    ),
    "predict": Command(
        "inferring", "inference", "input", "score an image, a DICOM series or a folder of them",
        {"output_dir": "inference", **_MODELS},
    ),
    "calibrate": Command(
        "calibrating", "calibrate", "dataset_dir", "fit a model's threshold to another site",
        {"output_dir": "calibrated", **_MODELS},
    ),
    "compare": Command(
        "comparing", "compare", "dataset_dir", "train and measure several methods on one split",
        {"output_dir": "comparison"},
    ),
}  # fmt: skip


def bundle_line(command: Command, config_files: Sequence[str], options: Mapping[str, Any]) -> str:
    """The line that does the same without this package's command.

    Example:
        >>> bundle_line(COMMANDS["predict"], ["inference.json"], {"input": "a b.png"})
        "python -m monai.bundle run inferring --config_file inference.json --input 'a b.png'"
    """
    files = config_files[0] if len(config_files) == 1 else str(list(config_files))
    words = ["python", "-m", "monai.bundle", "run", command.run_id, "--config_file", files]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    return shlex.join(words)

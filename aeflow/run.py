"""Training, evaluation, inference and calibration as functions."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aeflow.commands import COMMANDS, Command, bundle_line


@dataclass(frozen=True)
class Finished:
    """What a run leaves behind.

    Attributes:
        output_dir: folder of the results.
        ckpt_dir: folder of the model.
        metrics: the content of ``metrics.json``; empty where a run measures nothing.
    """

    output_dir: Path
    ckpt_dir: Path
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        """The report, which opens in any browser."""
        return self.output_dir / "report.html"


PLANNING = "Looking at machine and data, and timing a few steps of the training."
PLAIN = "Images lie directly in {}: all are taken as normal (--layout normals)."


def train(
    dataset_dir: str | Path | None = None, preset: str | None = "auto", **options: Any
) -> Finished:
    """Learns from normal images and calibrates; see ``aeflow train --help`` for the options.

    Args:
        dataset_dir: the data folder; None takes phantoms.
        preset: ``quick``, ``standard``, ``best``, ``gpu``, ``paper``; ``auto`` stands for
            ``standard``. None chooses nothing: the defaults of ``train.json`` hold.
        **options: by their names; they beat what the preset chooses.

    Raises:
        InputError: for what the user can mend.
    """
    return _run(COMMANDS["train"], dataset_dir, options, preset)


def evaluate(dataset_dir: str | Path, **options: Any) -> Finished:
    """Measures the model in ``ckpt_dir`` on labelled images.

    Raises:
        InputError: for what the user can mend.
    """
    return _run(COMMANDS["evaluate"], dataset_dir, options)


def predict(input: str | Path, **options: Any) -> Finished:
    """Scores an image or a folder, and writes maps and a report; see also `aeflow.Predictor`.

    Raises:
        InputError: for what the user can mend.
    """
    return _run(COMMANDS["predict"], input, options)


def calibrate(dataset_dir: str | Path, **options: Any) -> Finished:
    """Fits the thresholds of the model in ``ckpt_dir`` to normal images of another site.

    Raises:
        InputError: for what the user can mend.
    """
    return _run(COMMANDS["calibrate"], dataset_dir, options)


def suited(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a training, with the layout ``normals`` for a plain folder of images.

    Args:
        options: as given.
    """
    from pipelines.data import is_plain  # slow

    folder = options.get("dataset_dir")
    if folder is None or options.get("layout", "auto") != "auto" or not is_plain(str(folder)):
        return dict(options)
    print(PLAIN.format(folder), flush=True)
    return {**options, "layout": "normals"}


def run_command(command: Command, options: Mapping[str, Any], preset: str | None = None) -> None:
    """Runs the bundle, a training by its plan, and prints the line that does the same.

    Args:
        command: what to run.
        options: by name.
        preset: of a training, see `train`.

    Raises:
        Exception: whatever MONAI or the bundle raises.
    """
    plan = None
    if command is COMMANDS["train"]:
        options = suited(options)
        if preset is not None:
            from aeflow.planning import make_plan  # slow

            print(PLANNING, flush=True)
            plan = make_plan(preset, options)
            print(plan, flush=True)
            options = plan.options
    files = command.config_files(() if plan is None else plan.configs)
    print(f"The same: {bundle_line(command, files, options)}", flush=True)
    with nullcontext() if plan is None else plan.kept():
        run_bundle(command, files, options)


def run_bundle(command: Command, config_files: Sequence[str], options: Mapping[str, Any]) -> None:
    """Runs the bundle as ``python -m monai.bundle run`` does.

    Raises:
        Exception: whatever MONAI or the bundle raises.
    """
    with warnings.catch_warnings():
        # The configs are the package's own; SECURITY.md says what those of others may do.
        warnings.filterwarnings("ignore", "parsing config_file", UserWarning)
        from monai.bundle import run  # slow

        run(command.run_id, config_file=list(config_files), **options)


def _run(
    command: Command,
    argument: str | Path | None,
    options: Mapping[str, Any],
    preset: str | None = None,
) -> Finished:
    from pipelines.common import find_mistake
    from transforms.errors import InputError

    given: dict[str, Any] = {**command.folders, **options}
    if argument is not None:
        given[command.argument] = argument
    given = {name: str(v) if isinstance(v, Path) else v for name, v in given.items()}
    hook = sys.excepthook
    try:
        run_command(command, given, preset)
    except Exception as error:
        mistake = find_mistake(error)
        if mistake is None or isinstance(error, InputError):
            raise
        raise InputError(mistake) from error
    finally:
        sys.excepthook = hook
    output_dir = Path(given["output_dir"])
    metrics = output_dir / "metrics.json"
    found = json.loads(metrics.read_text()) if metrics.is_file() else {}
    return Finished(output_dir, Path(given["ckpt_dir"]), found)

"""Training, evaluation, inference and calibration as functions."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aeflow.commands import COMMANDS, Command


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


PLAIN = "Images lie directly in {}: all are taken as normal (--layout normals)."


def train(
    dataset_dir: str | Path | None = None, preset: str | None = "auto", **options: Any
) -> Finished:
    """Learns from normal images and calibrates; see ``aeflow train --help`` for the options.

    Args:
        dataset_dir: the data folder; None takes phantoms.
        preset: ``gpu``, ``paper`` or None; ``auto`` takes ``gpu`` where there is one.
        **options: by their names.

    Raises:
        InputError: for what the user can mend.
    """
    given = suited({"dataset_dir": dataset_dir, **options} if dataset_dir else options)
    return _run(COMMANDS["train"], given.pop("dataset_dir", None), chosen_preset(preset), given)


def evaluate(dataset_dir: str | Path, **options: Any) -> Finished:
    """Measures the model in ``ckpt_dir`` on labelled images.

    Raises:
        InputError: for what the user can mend.
    """
    return _run(COMMANDS["evaluate"], dataset_dir, None, options)


def predict(input: str | Path, **options: Any) -> Finished:
    """Scores an image or a folder, and writes maps and a report; see also `aeflow.Predictor`.

    Raises:
        InputError: for what the user can mend.
    """
    return _run(COMMANDS["predict"], input, None, options)


def calibrate(dataset_dir: str | Path, **options: Any) -> Finished:
    """Fits the thresholds of the model in ``ckpt_dir`` to normal images of another site.

    Raises:
        InputError: for what the user can mend.
    """
    return _run(COMMANDS["calibrate"], dataset_dir, None, options)


def chosen_preset(preset: str | None) -> str | None:
    """The preset itself, or for ``auto`` the one that suits this machine."""
    if preset != "auto":
        return preset
    import torch  # slow

    return "gpu" if torch.cuda.is_available() else None


def suited(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a training, with the layout ``normals`` for a plain folder of images.

    Args:
        options: as given.
    """
    from pipelines.data import is_plain_folder  # slow

    folder, layout = options.get("dataset_dir"), options.get("layout", "auto")
    if folder is None or layout != "auto" or not is_plain_folder(str(folder)):
        return dict(options)
    print(PLAIN.format(folder), flush=True)
    return {**options, "layout": "normals"}


def run_bundle(command: Command, preset: str | None, options: Mapping[str, Any]) -> None:
    """Runs the bundle as ``python -m monai.bundle run`` does.

    Raises:
        Exception: whatever MONAI or the bundle raises.
    """
    with warnings.catch_warnings():
        # The configs are the package's own; SECURITY.md says what those of others may do.
        warnings.filterwarnings("ignore", "parsing config_file", UserWarning)
        from monai.bundle import run  # slow

        run(command.run_id, config_file=command.config_files(preset), **options)


def _run(
    command: Command, argument: str | Path | None, preset: str | None, options: Mapping[str, Any]
) -> Finished:
    from pipelines.common import find_mistake
    from transforms.errors import InputError

    given: dict[str, Any] = {**command.folders, **options}
    if argument is not None:
        given[command.argument] = argument
    given = {name: str(v) if isinstance(v, Path) else v for name, v in given.items()}
    hook = sys.excepthook
    try:
        run_bundle(command, preset, given)
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

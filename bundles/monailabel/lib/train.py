"""Retraining on the studies that were marked normal, through the bundle's own pipeline."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from monailabel.interfaces.tasks.train import TrainTask

import pipelines
from lib.guard import Refusal, only_keys, shown
from lib.images import require_readable
from lib.options import Options
from lib.records import NORMAL
from lib.serving import ServedModel
from pipelines.common import counted, duration, write_json

logger = logging.getLogger("aeflow.label")

LEAST_PATIENTS = 3
"""Fewest patients whose normal studies can be divided into training, calibration and test."""

_NUMBERS: dict[str, tuple[type, float, float]] = {
    "max_epochs": (int, 1, 1000),
    "pretrain_epochs": (int, 0, 1000),
    "batch_size": (int, 1, 1024),
    "target_fpr": (float, 0.001, 0.5),
    "seed": (int, 0, 2**31 - 1),
}
CALIBRATE = "calibrate"
"""Flag of a client: the thresholds alone are fitted anew, and nothing is trained."""

_SHOWN = ("max_epochs", "pretrain_epochs", "target_fpr")
_FROM_CLIENTS = ("client_id", "device", "model")
_STATS, _PROGRESS = "training.json", "training-progress.json"
_KEPT_FROM_MODEL = (
    *("channels", "image_size", "axis", "intensity", "n4", "slice_range", "min_body_fraction"),
    *("patch_size", "overlap"),
)


def checked_params(params: object) -> dict[str, int | float]:
    """The options of train.json that a client may set, and `CALIBRATE`.

    Raises:
        Refusal: 400 for an unknown option or a value out of its range.
    """
    values = only_keys("train", params, (*_NUMBERS, CALIBRATE, *_FROM_CLIENTS))
    flag = values.get(CALIBRATE)
    if not isinstance(flag, bool | None):
        raise Refusal(400, f"{CALIBRATE}: expected true or false, found {shown(str(flag))}.")
    options: dict[str, int | float] = {CALIBRATE: True} if flag else {}
    for name, (kind, low, high) in _NUMBERS.items():
        value = values.get(name)
        if value is None:
            continue
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not plain or not low <= value <= high or kind(value) != value:
            raise Refusal(400, f"{name}: expected {low:g} to {high:g}, found {shown(str(value))}.")
        options[name] = kind(value)
    return options


class NormalTraining(TrainTask):  # type: ignore[misc]
    """Trains the bundle on normal studies and serves the model once it has proved to work.

    Args:
        model: the served model.
        options: of the app.
    """

    def __init__(self, model: ServedModel, options: Options) -> None:
        super().__init__(description="Train on the studies that are marked normal")
        self.model = model
        self.options = options

    def config(self) -> dict[str, Any]:
        """What viewers offer to set."""
        defaults = json.loads((self.options.bundle / "train.json").read_text())
        shown = {name: self.options.train.get(name, defaults[name]) for name in _SHOWN}
        return shown | {CALIBRATE: False}

    def stats(self) -> dict[str, Any]:
        """How far a training is that runs, else facts of the last one; viewers draw a bar of it."""
        folder = self.model.path.parent
        running = _read(folder / _PROGRESS)
        return running if psutil.pid_exists(running.pop("pid", -1)) else _read(folder / _STATS)

    def normals(self, datastore: Any, calibrate: bool = False) -> list[str]:
        """The studies that are marked normal.

        Args:
            datastore: the app's.
            calibrate: whether they calibrate alone, for which one is enough.

        Raises:
            Refusal: 409 when they are too few.
        """
        datastore.reread()
        found = sorted(one for one in datastore.list_images() if datastore.is_normal(one))
        patients = {_patient(datastore, one) for one in found}
        least = 1 if calibrate else LEAST_PATIENTS
        if len(patients) < least:
            raise Refusal(
                409,
                f"train: expected studies of at least {counted(least, 'patient')} that are "
                f"marked normal, found {len(found)} of {len(patients)}. Mark one in the worklist, "
                f'by an empty label, or with PUT /datastore/image/info and {{"{NORMAL}": true}}.',
            )
        return found

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Trains; the served model changes only at the very end.

        Raises:
            SystemExit: when there is too little to train on, or the training fails; the reason is
                the last line of the task's details.
        """
        try:
            return self._retrain(request, datastore)
        except Refusal as refusal:
            _tell(refusal.reason)
            raise SystemExit(1) from refusal

    def _retrain(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        began = time.monotonic()
        asked = {name: request[name] for name in (*_NUMBERS, CALIBRATE) if name in request}
        params = checked_params(asked)
        calibrate = bool(params.pop(CALIBRATE, False))
        options = self._options(params)
        if calibrate:
            options = {"target_fpr": params["target_fpr"]} if "target_fpr" in params else {}
        normals = self.normals(datastore, calibrate)
        try:
            self._make_model(datastore, normals, options, calibrate)
        finally:
            (self.model.path.parent / _PROGRESS).unlink(missing_ok=True)
        stats = {
            "studies": len(normals),
            "total_time": duration(time.monotonic() - began),
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
            "options": options | ({CALIBRATE: True} if calibrate else {}),
            "model": self.model.loaded().fingerprint,
        }
        write_json(self.model.path.parent / _STATS, stats)
        _tell("The new model is served.")
        return stats

    def _make_model(
        self, datastore: Any, normals: list[str], options: Mapping[str, Any], calibrate: bool
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="training-") as place:
            folder = Path(place)
            files = self._write_table(datastore, normals, folder)
            self._run(folder, options, calibrate)
            _tell("Trying the new model.")
            self._try(folder / "models", files[0])
            self.model.replace(folder / "models" / "model.pt")

    def _options(self, asked: Mapping[str, int | float]) -> dict[str, Any]:
        """The bundle's options: as the present model was trained, the operator's, asked."""
        options: dict[str, Any] = {}
        if self.model.available:
            model = self.model.loaded().predictor.model
            options = {name: model["preprocessing"].get(name) for name in _KEPT_FROM_MODEL}
            options["modalities"] = list(model["modalities"])
        merged = {**options, **self.options.train, **asked}
        return {name: value for name, value in merged.items() if value is not None}

    def _write_table(self, datastore: Any, normals: list[str], folder: Path) -> list[Path]:
        files = []
        with (folder / "cases.csv").open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(("path", "patient", "label"))
            for image_id in normals:
                files.append(datastore.path(image_id))
                require_readable(files[-1])
                table.writerow((files[-1], _patient(datastore, image_id), "normal"))
        return files

    def _run(self, folder: Path, options: Mapping[str, Any], calibrate: bool) -> None:
        run_id, config = ("calibrating", "calibrate") if calibrate else ("training", "train")
        command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--layout", "list"]
        configs = [config, "volumes"] if "patch_size" in options else [config]
        command += ["--config_file", str([str(self.options.bundle / f"{n}.json") for n in configs])]
        command += ["--dataset_dir", str(folder / "cases.csv")]
        models = str(folder / "models")
        if calibrate:
            command += ["--ckpt_dir", str(self.model.path.parent), "--output_dir", models]
        else:
            command += ["--ckpt_dir", models, "--output_dir", str(folder / "output")]
            command += ["--tracking_uri", "none"]
        for name, value in options.items():
            command += [f"--{name}", value if isinstance(value, str) else repr(value)]
        root = str(Path(pipelines.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}
        log = folder / "log.txt"
        with log.open("w") as stream:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT
            )
            for progress in _until_end(process, folder / "output" / "progress.json"):
                self._note(progress, options)
        if process.returncode or not (folder / "models" / "model.pt").is_file():
            raise Refusal(500, f"train: failed; the served model is unchanged. {_cause(log)}")

    def _note(self, progress: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Tells an epoch, and keeps how many of pre-training and training are done."""
        known = {name: value for name, value in progress["metrics"].items() if value is not None}
        metrics = [f"{name} {value:.4g}" for name, value in known.items()]
        _tell(f"{progress['phase']} {progress['epoch']}/{progress['of']}: {', '.join(metrics)}")
        planned = {**self.config(), **options}
        total = planned["pretrain_epochs"] + planned["max_epochs"]
        shown = {"epoch": progress["done"], "total_epochs": total, "pid": os.getpid()}
        write_json(self.model.path.parent / _PROGRESS, shown)

    def _try(self, ckpt_dir: Path, study: Path) -> None:
        """A new model must load and give a finite map of a study that it knows."""
        served = self.model
        candidate = ServedModel(ckpt_dir, served.device, served.batch_size, served.very_suspicious)
        anomaly_map = candidate.score(study)[0].grid_map.as_tensor().numpy()
        if not np.isfinite(anomaly_map).all():
            raise Refusal(500, "train: the new model gives no finite map; the old one stays.")


def _patient(datastore: Any, image_id: str) -> str:
    return str(datastore.info(image_id).get("patient") or image_id)


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _until_end(process: subprocess.Popen[bytes], file: Path) -> Iterator[dict[str, Any]]:
    """What a file of progress says, whenever that is something new."""
    before: dict[str, Any] = {}
    running = True
    while running:
        running = process.poll() is None
        found = _read(file)
        if found != before:
            yield found
        before = found
        if running:
            time.sleep(0.5)


def _cause(log: Path) -> str:
    """The last paragraph of the training's output, without paths."""
    text = re.sub(r"\S*/\S*", "<file>", log.read_text(errors="replace"))
    return " ".join(text.strip().splitlines()[-8:])[-800:]


def _tell(line: str) -> None:
    """MONAI Label shows what a background task prints as its progress."""
    print(line, flush=True)

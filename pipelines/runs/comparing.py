"""Several methods on one split, one preprocessing and one budget, each in a process of its own."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from networks import DETECTORS
from networks.choices import nearest
from networks.spatial import KINDS
from pipelines.common import (
    FolderLock,
    StopSignals,
    duration,
    environments,
    executed_options,
    installed_version,
    write_json,
)
from pipelines.data import Case, Data, spatial_dims
from pipelines.metrics import REFERENCE
from pipelines.runs.compared import Finished, write_comparison
from pipelines.runs.evaluation import about_data
from pipelines.runs.record import COST_NAME
from pipelines.runs.session import framed
from pipelines.tracking import Tracker
from transforms.errors import InputError

logger = logging.getLogger(__name__)

ALL = "all"
DONE_NAME = "done.json"
"""In the folder of a training that is finished; what it is of."""

TRACKING_NAME = "tracking.json"
"""What finds the parent run again."""

SHOWN = 6
"""Cases whose maps are shown side by side."""

SHARED = (
    "axis", "image_size", "intensity", "n4", "resample", "slice_range", "min_body_fraction",
    "min_lesion_pixels", "normal_margin", "target_fpr", "pixel_fpr", "patch_size", "overlap",
)  # fmt: skip
"""Options of ``train.json`` that must be the same for all methods, whatever their configs say."""

TRAINING = [
    "$@session.begin()",
    "$@record.begin()",
    "$@train#stages.run()",
    "$@record.trained()",
    "$@calibrator.run()",
    "$@session.save_model()",
    "$@session.finish()",
]
"""The run list of ``train.json``, measured."""


@dataclass(frozen=True)
class Task:
    """One training to be compared.

    Attributes:
        method: its name.
        seed: of everything random.
        folder: of its results.
        configs: files that lie over each other.
        options: what they are overridden with.
        stamp: tells whether what is finished is of the same.
    """

    method: str
    seed: int
    folder: Path
    configs: tuple[Path, ...]
    options: Mapping[str, Any]
    stamp: str

    @property
    def done(self) -> bool:
        """Whether it was finished, as it is now."""
        try:
            return bool(json.loads((self.folder / DONE_NAME).read_text())["stamp"] == self.stamp)
        except (OSError, ValueError, KeyError):
            return False


class Comparison:
    """Trains and measures each method once per seed, but for what is finished, and compares.

    Args:
        data: the data set; its split is that of all methods.
        tracker: of the parent run; each training is a run below it.
        bundle_root: folder of ``train.json`` and of the methods' configs beside it.
        output_dir: gets a folder per method and seed, ``comparison.html`` and ``comparison.csv``.
        methods: their names, ``aeflow`` or that of a config; ``all`` takes every one.
        seeds: of the trainings of each method.
        minutes: of training for each method and seed, see `StagedTraining`; what is only
            fitted takes the time that it needs. 0 for the durations that the configs say.
        parallel: trainings at once; several GPUs are taken in turn.
        configs: configs laid over ``train.json`` for all methods, by name or path.
        options: options of all trainings; those of None are left as the configs say.

    Raises:
        InputError: for a method or a config that is not there.
    """

    def __init__(
        self,
        data: Data,
        tracker: Tracker,
        bundle_root: str,
        output_dir: str,
        methods: str | Sequence[str] = ALL,
        seeds: Sequence[int] = (0,),
        minutes: float = 0.0,
        parallel: int = 1,
        configs: str | Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.data = data
        self.tracker = tracker
        self.bundle = Path(bundle_root)
        self.output_dir = Path(output_dir)
        self.seeds = tuple(dict.fromkeys(seeds))
        self.minutes = float(minutes)
        self.parallel = int(parallel)
        kind = ["signals"] if data.cohort.signals else []
        self.further = tuple(self._config(str(name)) for name in [*kind, *_listed(configs)])
        given = {name: value for name, value in (options or {}).items() if value is not None}
        config = self._below()
        dims = spatial_dims(config["patch_size"], data.cohort.signals)
        self.methods = chosen_methods(methods, self.bundle, dims)
        self.options = {name: config[name] for name in SHARED} | given
        self.split_path = self.output_dir / "split.json"
        self.stops = StopSignals()
        self.running: set[subprocess.Popen[bytes]] = set()
        self.places: SimpleQueue[dict[str, str]] = SimpleQueue()
        for place in environments(self.parallel, str(self.options.get("device", "auto"))):
            self.places.put(place)

    def run(self) -> None:
        """Trains, measures, compares and tells.

        Raises:
            InputError: when no training could be finished.
        """
        began = time.monotonic()
        lock = FolderLock(self.output_dir, "output_dir")
        lock.acquire()
        self.stops.listen(self.tracker.stop)
        write_json(self.split_path, self.data.split.as_dict())
        self._open_tracking()
        with self.tracker.guard():
            tasks = self._tasks()
            reasons = self._train(tasks)
            finished = [Finished(t.method, t.seed, t.folder) for t in tasks if t.done]
            if not finished:
                raise InputError(f"methods: no training could be finished. {_told(reasons)}")
            about = self._about() | {"duration": duration(time.monotonic() - began)}
            figures = write_comparison(
                self.output_dir, finished, reasons, self._shown(), about, self.data.notes
            )
            for name in ("comparison.html", "comparison.csv"):
                self.tracker.log_artifact(self.output_dir / name)
            self.tracker.log_metrics(figures)
        self.tracker.finish()
        self.stops.ignore()
        lock.release()
        notes = [*self.data.notes, *(_told({key: one}) for key, one in reasons.items())]
        lines = [f"  {name:<34}{value:.3f}" for name, value in figures.items()]
        places = {
            "page": self.output_dir / "comparison.html",
            "table": self.output_dir / "comparison.csv",
            "tracking": self.tracker.where,
            **self.tracker.pages,
            "duration": duration(time.monotonic() - began),
        }
        logger.info(framed(notes, lines, places))

    def _open_tracking(self) -> None:
        """Opens the parent run, or goes on with that of an earlier time."""
        state = self.output_dir / TRACKING_NAME
        if state.is_file():
            self.tracker.load_state_dict(json.loads(state.read_text()))
        self.tracker.start(executed_options(), {"kind": "comparing"})
        if self.tracker.active:
            write_json(state, self.tracker.state_dict())

    def _about(self) -> dict[str, Any]:
        return about_data(self.data) | {
            "seeds": list(self.seeds),
            "training time of each": f"{self.minutes:g} min" if self.minutes else "as configured",
            "trainings at once": self.parallel,
            "options of all": {n: v for n, v in self.options.items() if str(v)[:1] != "@"},
            "configs of all": [path.name for path in self.further],
        }

    def _below(self) -> dict[str, Any]:
        """What lies below all methods' configs."""
        config: dict[str, Any] = {}
        for path in (self.bundle / "train.json", *self.further):
            config |= json.loads(path.read_text())
        return config

    def _config(self, name: str) -> Path:
        path = self.bundle / f"{name}.json"
        if not path.is_file():
            path = Path(name)
        if not path.is_file():
            raise InputError(
                f"configs: expected names of configs in {self.bundle}, such as gpu, or files; "
                f"found {name!r}."
            )
        return path

    def _shown(self) -> list[str]:
        """Cases to be shown, evenly spaced in the order of their names, whatever was found."""
        test = self.data.split.test
        anomalous = [case for case in test if case.label != 0]
        normal = [case for case in test if case.label == 0]
        few = SHOWN // 3 if anomalous and normal else 0
        chosen = _spaced(anomalous, SHOWN - few) + _spaced(normal, few or SHOWN)
        return [case.name for case in chosen[:SHOWN]]

    def _tasks(self) -> list[Task]:
        """The trainings, the first seed of every method first."""
        return [self._task(name, seed) for seed in self.seeds for name in self.methods]

    def _task(self, method: str, seed: int) -> Task:
        folder = self.output_dir / method / f"seed{seed}"
        own = () if method == REFERENCE else (self.bundle / f"{method}.json",)
        train = self.bundle / "train.json"
        configs = (train, *self.further, *own)
        handlers = json.loads(train.read_text())["evaluation"]["evaluator"]["val_handlers"]
        options = {
            **self.options,
            "split": str(self.split_path),
            "seed": seed,
            "output_dir": str(folder / "output"),
            "ckpt_dir": str(folder / "models"),
            "resume": "never",
            "save_maps": False,
            "session#synthetic": None,  # what no comparison tells, and what searches are slow at
            "session#stability": False,
            "tracker#run_name": f"{method}-seed{seed}",
            "train#stages#minutes": self.minutes,
            "record": {
                "_target_": "pipelines.runs.RunRecord",
                "output_dir": "@output_dir",
                "detector": "$@network_def.detector",
                "shown": self._shown(),
            },
            "evaluation#evaluator#val_handlers": [handlers, "@record"],
            "training": TRAINING,
        }
        contents = [path.read_text() for path in configs]
        known = (options, contents, self.data.fingerprint, installed_version("aeflow"))
        stamp = hashlib.sha256(json.dumps(known, default=str).encode()).hexdigest()
        return Task(method, seed, folder, configs, options, stamp)

    def _train(self, tasks: Sequence[Task]) -> dict[tuple[str, int], str]:
        """Runs what is not finished; gives why some could not be."""
        pending = [task for task in tasks if not task.done]
        if len(pending) < len(tasks):
            done = len(tasks) - len(pending)
            logger.info("%d of %d trainings are finished already.", done, len(tasks))
        reasons: dict[tuple[str, int], str] = {}
        with ThreadPoolExecutor(self.parallel) as pool:
            waiting = {pool.submit(self._run, task): task for task in pending}
            try:
                for number, future in enumerate(as_completed(waiting), start=1):
                    task, reason = waiting[future], future.result()
                    if reason:
                        reasons[task.method, task.seed] = reason
                    told = f"failed: {reason}" if reason else "finished"
                    place = f"{len(tasks) - len(pending) + number}/{len(tasks)}"
                    logger.info("%s %s, seed %d: %s", place, task.method, task.seed, told)
            except BaseException:  # such as a signal
                pool.shutdown(wait=False, cancel_futures=True)
                for process in self.running:
                    process.terminate()
                raise
        return reasons

    def _run(self, task: Task) -> str:
        """Runs a training from its beginning; gives why it failed, or nothing."""
        shutil.rmtree(task.folder, ignore_errors=True)
        overlay = {**task.options, "tracker#parent": self.tracker.run_id}
        write_json(task.folder / "compared.json", overlay)
        files = [str(path) for path in (*task.configs, task.folder / "compared.json")]
        command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file"]
        log, place = task.folder / "log.txt", self.places.get()
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*command, str(files)], stdout=stream, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, env=os.environ | place | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
            self.running.add(process)
            code = process.wait()
            self.running.discard(process)
        self.places.put(place)
        output = task.folder / "output"
        if not (output / "metrics.json").is_file() or not (output / COST_NAME).is_file():
            return f"exit code {code}: {_last_words(log)}"
        write_json(task.folder / DONE_NAME, {"stamp": task.stamp})
        return ""


def chosen_methods(methods: str | Sequence[str], bundle: Path, dims: int = 2) -> tuple[str, ...]:
    """The methods to compare, each once.

    Args:
        methods: names; ``all`` for every one that takes such images.
        bundle: the folder of the configs.
        dims: axes of the images.

    Raises:
        InputError: for one that is not there, or takes other images.
    """
    found = {REFERENCE: REFERENCE, **_configured(bundle)}
    known = [name for name, method in found.items() if dims in DETECTORS[method].dims]
    names = _listed(methods)
    for name in names:
        if name not in (ALL, *known):
            hint = "" if name in found else nearest(name, known)
            raise InputError(
                f"methods: expected {ALL} or some of {', '.join(known)}, which take {KINDS[dims]}, "
                f"found {name!r}. {hint}".rstrip()
            )
    return tuple(dict.fromkeys(known if ALL in names or not names else names))


def _configured(bundle: Path) -> dict[str, str]:
    """The configs that put a detector, or a kind of it, in AE-Flow's place, and its name."""
    found = {}
    for path in sorted(bundle.glob("*.json")):
        content = json.loads(path.read_text())
        whole = content.get("network_def#detector", {})
        method = content.get("network_def#detector#detector", whole.get("detector"))
        if method in DETECTORS:
            found[path.stem] = method
    return found


def _listed(names: str | Sequence[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


def _spaced(cases: Sequence[Case], count: int) -> list[Case]:
    return list(cases[:: max(1, len(cases) // count)][:count]) if count else []


def _last_words(log: Path) -> str:
    """The end of what a process said: a user's mistake, or the error that led to all others."""
    text = log.read_text(errors="replace").strip()
    if "\nError: " in text:
        return " ".join(text.rsplit("\nError: ", 1)[1].split())
    first = text.partition("\n\nThe above exception was the direct cause")[0]
    return first.splitlines()[-1] if first else "it said nothing"


def _told(reasons: Mapping[tuple[str, int], str]) -> str:
    return " ".join(f"{name}, seed {seed}, failed: {why}" for (name, seed), why in reasons.items())

"""One MLflow run over all phases of a training or an evaluation.

A server that is away stops nothing: what is recorded waits, is sent when the server answers, and
what could not be sent by the end is kept on disk, see `pipelines.tracking.outbox`.
"""

from __future__ import annotations

import atexit
import logging
import shlex
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from pipelines.common import is_main, on_failure, quieten, writable_folder
from pipelines.tracking.address import masked, resolve_uri
from pipelines.tracking.errors import describe, mistake_of
from pipelines.tracking.link import Record, RunFacts, RunLink
from pipelines.tracking.outbox import LAST_PATIENCE, Outbox
from pipelines.tracking.system import SystemMonitor
from transforms.errors import InputError

logger = logging.getLogger(__name__)

MAX_PARAM_LENGTH = 500

PARENT = "mlflow.parentRunId"
"""Tag by which MLflow's page shows a run below another one."""


class Tracker:
    """Tracks one run; every method does nothing when tracking is off.

    The run is FINISHED by `finish`, FAILED by `fail` or when the process ends before either, and
    KILLED in place of FAILED after `stop`. A run that an earlier process began goes on when its
    state is loaded before `start`. After `start` nothing that happens to the server raises.

    Args:
        output_dir: the run's folder, home of the default database and its artifacts, and of what
            could not be sent.
        tracking_uri: see `resolve_uri`.
        run_name: start of the run's name; a time and a random suffix make it unique.
        system_metrics: whether the machine's load is recorded too.
        parent: the server's name for the run that this one is part of; None for none.

    Raises:
        InputError: for what is no address, or the machine's load without tracking.
    """

    def __init__(
        self,
        output_dir: str,
        tracking_uri: str | None = None,
        run_name: str = "aeflow",
        system_metrics: bool = False,
        parent: str | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        if not is_main():  # one process tracks for all
            tracking_uri, system_metrics = "none", False
        self.uri = resolve_uri(tracking_uri, self.output_dir)
        if system_metrics and self.uri is None:
            raise InputError(
                "system_metrics: they are recorded where runs are tracked, but tracking is off. "
                "Leave out --system_metrics, or --tracking_uri none."
            )
        self.monitor = SystemMonitor() if system_metrics else None
        self.parent = parent
        self.run_name = f"{run_name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self.link = RunLink(self.uri or "none", RunFacts(self.run_name, _now()))
        self.patience = LAST_PATIENCE
        self.outbox: Outbox | None = None
        self._left = ""
        self._failure = "FAILED"
        self._resumed = False

    def state_dict(self) -> dict[str, Any]:
        """What finds the run again, whether or not the server knows of it yet."""
        return asdict(self.link.run) | {"attempted": True}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets `start` go on with the run of an earlier process."""
        run = RunFacts(**state)
        self.run_name, self.link = run.name, RunLink(self.uri or "none", run)
        self._resumed = True

    @property
    def run_id(self) -> str | None:
        """The server's name for the run; None while it has not answered."""
        return self.link.run.run_id

    @property
    def active(self) -> bool:
        """Whether a run is open."""
        return self.outbox is not None

    @property
    def where(self) -> str:
        """Where the run can be found, in words."""
        return (
            "off" if self.uri is None else f"{masked(self.uri)} (run {self.run_name}){self._left}"
        )

    @property
    def pages(self) -> dict[str, str]:
        """The command that shows a database's runs in a browser, and where; none for a server.

        MLflow 3 opens on its pages for language models, whatever the experiment's kind.
        """
        if self.uri is None or not self.uri.startswith("sqlite:"):
            return {}
        pages = {"its page": f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}"}
        number = self.link.experiment_id
        runs = f"http://127.0.0.1:5000/#/experiments/{number}?workflowType=machine_learning"
        return pages | ({"its runs": runs} if number else {})

    def start(self, parameters: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Opens the run and records its parameters; a server that is away gets them later.

        Args:
            parameters: plain values; those of a group get names such as ``weights.flow``.
            tags: further labels of the run.

        Raises:
            InputError: for what waiting cannot cure: refused credentials, something that is no
                MLflow server, a file that is no database, a missing package.
        """
        if self.uri is None:
            return
        writable_folder(self.output_dir)
        run = self.link.run
        run.tags = {k: str(v) for k, v in (tags or {}).items()}
        if self.parent is not None:
            run.tags[PARENT] = self.parent
        outbox = Outbox(self.link, self.output_dir)
        if self._resumed:
            outbox.take_up()
        else:
            run.started = _now()
        try:
            self.link.open()
        except Exception as error:  # of any store; a mistake is told, the rest may pass
            mistake = mistake_of(error, self.uri)
            if mistake is not None:
                raise mistake from error
            outbox.lose(error)
        self.outbox = outbox
        atexit.register(self.fail)
        # The address itself is an option, and may hold a password.
        values = {name: masked(v) if v == self.uri else v for name, v in _flat(parameters)}
        self._add("params", values={name: _short(value) for name, value in values.items()})
        if self._resumed:
            self._add("again")
        if self.monitor is not None:
            self.monitor.start(run.started)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Records numbers at a step, as of now."""
        if metrics:
            values = {name: float(value) for name, value in metrics.items()}
            self._add("metrics", values=values, step=int(step), time=_now())

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Labels the run; ``mlflow.note.content`` is its description."""
        self._add("tags", values=dict(tags))

    def log_data(self, name: str, digest: str, context: str, profile: Mapping[str, int]) -> None:
        """Records what the run is on, without the data: MLflow's dataset.

        Args:
            name: of the kind of data.
            digest: equal data have an equal one; at most 36 characters.
            context: ``training`` or ``testing``.
            profile: counts, by name.
        """
        self._add("data", name=name, digest=digest, context=context, profile=dict(profile))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Records a file, or a folder with all its files; it must stay until the run has ended."""
        self._add("artifact", path=str(path.resolve()), folder=folder)

    def register_model(self, name: str, package: Path) -> None:
        """Registers a packaged model, see `pipelines.export.registry`; the package is used up."""
        self._add("model", name=name, path=str(package.resolve()))

    def finish(self) -> None:
        """Ends the run as FINISHED, waiting a while for a server that is away."""
        self._end("FINISHED", self.patience)

    def fail(self) -> None:
        """Ends the run as FAILED, or as KILLED, if it is still open."""
        self._end(self._failure, 0.0)

    def stop(self) -> None:
        """Notes that the run is being stopped: unless it still finishes, it was KILLED."""
        self._failure = "KILLED"

    def close_dead(self, state: Mapping[str, Any]) -> None:
        """Ends another run as FAILED whose process died, if the server takes it for running.

        Args:
            state: that run's `state_dict`.
        """
        if self.uri is None:
            return
        link = RunLink(self.uri, RunFacts(**state))
        try:
            if link.find() and link.running:
                link.send([Record("end", {"status": "FAILED", "time": _now()})])
        except Exception as error:  # MLflow and its stores raise anything; training goes on
            logger.warning("Tracking: %s is left open: %s.", link.run.name, describe(error))
        finally:
            link.close()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Ends the run as FAILED when the block raises."""
        try:
            yield
        except BaseException:
            self.fail()
            raise

    def _add(self, kind: str, **content: Any) -> None:
        if self.outbox is not None:
            self._take_samples(self.outbox)
            self.outbox.add(Record(kind, content))

    def _take_samples(self, outbox: Outbox) -> None:
        if self.monitor is not None:
            outbox.waiting.extend(self.monitor.take())

    def _end(self, status: str, patience: float) -> None:
        if self.outbox is None:
            return
        outbox, self.outbox = self.outbox, None
        atexit.unregister(self.fail)
        if self.monitor is not None:
            self.monitor.stop()
        self._take_samples(outbox)
        outbox.waiting.append(Record("end", {"status": status, "time": _now()}))
        if not outbox.deliver_last(patience):
            self._left = (
                f"; {len(outbox.unsent)} record(s) not sent, to be sent by {outbox.command}"
            )
        outbox.link.close()


class EpochTracker:
    """Records an engine's metrics after each epoch, in groups: ``train/loss``, ``val/loss``.

    Args:
        tracker: the run.
        phase: of the training; one other than ``train`` groups all of its metrics by its name.
    """

    def __init__(self, tracker: Tracker, phase: str) -> None:
        self.tracker = tracker
        self.phase = phase

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an engine."""
        quieten(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log)
        on_failure(engine, self.tracker.fail)

    def _log(self, engine: Engine) -> None:
        metrics = {self._grouped(name): value for name, value in engine.state.metrics.items()}
        self.tracker.log_metrics(metrics, step=engine.state.epoch)

    def _grouped(self, name: str) -> str:
        if self.phase == "train" and name.startswith("val_"):
            return name.replace("_", "/", 1)
        return f"{self.phase}/{name}"


def _now() -> int:
    return int(time.time() * 1000)


def _flat(parameters: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{group}{name}.")
        else:
            yield f"{group}{name}", value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_PARAM_LENGTH else text[: MAX_PARAM_LENGTH - 3] + "..."

"""One MLflow run over all phases of a training or an evaluation.

A server that is away stops nothing: what is recorded waits, is sent when the server answers, and
what could not be sent by the end is kept on disk, from where this sends it later:

    python -m pipelines.tracking.tracker --send output/untracked --tracking_uri http://localhost:5000
"""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ignite.engine import Engine, Events

from pipelines.common import on_failure, quieten, writable_folder
from pipelines.tracking.errors import masked, mistake_of
from pipelines.tracking.link import EXPERIMENT, URI_VARIABLE, Record, RunFacts, RunLink
from pipelines.tracking.outbox import LAST_PATIENCE, Outbox, send_untracked
from transforms.errors import InputError

__all__ = ["EXPERIMENT", "URI_VARIABLE", "EpochTracker", "Tracker", "resolve_uri"]

logger = logging.getLogger(__name__)

MAX_PARAM_LENGTH = 500
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
"""What MLflow tracks to by itself; plugins add to these."""


def resolve_uri(tracking_uri: str | None, output_dir: Path) -> str | None:
    """Decides where a run is tracked.

    Args:
        tracking_uri: what the user asked for; ``none`` turns tracking off, None or the empty
            string leaves the choice to the environment and then to a database in ``output_dir``.
        output_dir: the run's folder.

    Returns:
        A URI, or None when tracking is off. The user's choice beats the environment.

    Raises:
        InputError: for a plain path, which MLflow no longer accepts, and for what is no URI.
    """
    wanted = (tracking_uri or os.environ.get(URI_VARIABLE) or "").strip()
    if not wanted:
        return f"sqlite:///{(output_dir / 'mlruns.db').resolve()}"
    if wanted.lower() == "none":
        return None
    fault = _fault(wanted)
    if fault:
        raise InputError(
            f"tracking_uri: expected a database or a server, such as sqlite:///runs.db or "
            f"http://localhost:5000, or 'none'; found {masked(wanted)!r}. {fault}"
        )
    return wanted


def _fault(uri: str) -> str:
    """What is wrong with a URI; nothing when it is empty."""
    if "://" not in uri or uri.startswith("file:"):
        host = uri.partition("/")[0]
        meant = f" Or did you mean http://{uri}?" if ":" in host and "file" not in host else ""
        return f"MLflow no longer writes to plain folders.{meant}"
    scheme = uri.partition("://")[0].lower().partition("+")[0]
    plugins = {plugin.name for plugin in entry_points(group="mlflow.tracking_store")}
    if scheme not in {*SCHEMES, *plugins}:
        return f"MLflow knows no {uri.partition('://')[0]!r}."
    if scheme == "sqlite":
        return "" if uri.startswith("sqlite:///") else "A database file takes three slashes."
    if scheme in ("http", "https"):
        return _address_fault(uri)
    return ""


def _address_fault(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        if parts.port is not None and parts.port < 1:
            raise ValueError("the port is a number from 1 to 65535")
    except ValueError as error:
        return f"{error}."
    return "" if parts.hostname and " " not in uri else "The name of the server is missing."


class Tracker:
    """Tracks one run; every method does nothing when tracking is off.

    The run is FINISHED by `finish`, FAILED by `fail` or when the process ends before either. After
    `start` nothing that happens to the server raises.

    Args:
        output_dir: the run's folder, home of the default database and its artifacts, and of what
            could not be sent.
        tracking_uri: see `resolve_uri`.
        run_name: start of the run's name; a time and a random suffix make it unique.
    """

    def __init__(
        self, output_dir: str, tracking_uri: str | None = None, run_name: str = "aeflow"
    ) -> None:
        self.output_dir = Path(output_dir)
        self.uri = resolve_uri(tracking_uri, self.output_dir)
        self.run_name = f"{run_name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self.link = RunLink(self.uri or "none", RunFacts(self.run_name, _now()))
        self.patience = LAST_PATIENCE
        self.outbox: Outbox | None = None
        self._left = ""

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

    def start(self, parameters: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Opens the run and records its parameters; a server that is away gets them later.

        Args:
            parameters: plain values.
            tags: further labels of the run.

        Raises:
            InputError: for what waiting cannot cure: refused credentials, something that is no
                MLflow server, a file that is no database, a missing package.
        """
        if self.uri is None:
            return
        writable_folder(self.output_dir)
        run = self.link.run
        run.started, run.tags = _now(), {k: str(v) for k, v in (tags or {}).items()}
        outbox = Outbox(self.link, self.output_dir)
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
        values = {name: masked(v) if v == self.uri else v for name, v in parameters.items()}
        self._add("params", values={name: _short(value) for name, value in values.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Records numbers at a step, as of now."""
        if metrics:
            values = {name: float(value) for name, value in metrics.items()}
            self._add("metrics", values=values, step=int(step), time=_now())

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
        """Ends the run as FAILED, if it is still open."""
        self._end("FAILED", 0.0)

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
            self.outbox.add(Record(kind, content))

    def _end(self, status: str, patience: float) -> None:
        if self.outbox is None:
            return
        outbox, self.outbox = self.outbox, None
        atexit.unregister(self.fail)
        outbox.waiting.append(Record("end", {"status": status, "time": _now()}))
        if not outbox.deliver_last(patience):
            self._left = (
                f"; {len(outbox.unsent)} record(s) not sent, to be sent by {outbox.command}"
            )
        outbox.link.close()


class EpochTracker:
    """Records an engine's metrics after each epoch under a prefix.

    Args:
        tracker: the run.
        prefix: start of the metrics' names, e.g. ``"train"``; may be empty.
        epoch: gives the step; None takes the engine's own epoch.
    """

    def __init__(
        self, tracker: Tracker, prefix: str, epoch: Callable[[Engine], int] | None = None
    ) -> None:
        self.tracker = tracker
        self.prefix = prefix
        self.epoch = epoch

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an engine."""
        quieten(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log)
        on_failure(engine, self.tracker.fail)

    def _log(self, engine: Engine) -> None:
        step = engine.state.epoch if self.epoch is None else self.epoch(engine)
        start = f"{self.prefix}_" if self.prefix else ""
        metrics = {f"{start}{name}": value for name, value in engine.state.metrics.items()}
        self.tracker.log_metrics(metrics, step=step)


def main(arguments: Sequence[str] | None = None) -> None:
    """Sends what a run could not send, once the server is there again."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.tracking.tracker",
        description="Sends to an MLflow server what a run kept while the server was away.",
    )
    parser.add_argument("--send", type=Path, required=True, help="the run's folder 'untracked'")
    parser.add_argument("--tracking_uri", help=f"the server; by default {URI_VARIABLE}")
    options = parser.parse_args(arguments)
    try:
        uri = options.tracking_uri or os.environ.get(URI_VARIABLE)
        wanted = resolve_uri(uri, options.send) if uri else None
        if wanted is None:
            raise InputError(f"--tracking_uri: name the server, here or in {URI_VARIABLE}.")
        sent = send_untracked(options.send, wanted)
    except InputError as error:
        sys.exit(f"Error: {error}")
    sys.stdout.write(f"{sent} record(s) sent to {masked(wanted)}.\n")


def _now() -> int:
    return int(time.time() * 1000)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_PARAM_LENGTH else text[: MAX_PARAM_LENGTH - 3] + "..."


if __name__ == "__main__":
    main()

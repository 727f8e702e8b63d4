"""One MLflow run over all phases of a training or an evaluation."""

from __future__ import annotations

import atexit
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler

from pipelines.failures import on_failure
from pipelines.files import writable_folder
from pipelines.progress import quieten
from transforms.errors import InputError

logger = logging.getLogger(__name__)

URI_VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT = "aeflow"
MAX_PARAM_LENGTH = 500


def resolve_uri(tracking_uri: str | None, output_dir: Path) -> str | None:
    """Decides where a run is tracked.

    Args:
        tracking_uri: what the user asked for; ``none`` turns tracking off, None or the empty
            string leaves the choice to the environment and then to a database in ``output_dir``.
        output_dir: the run's folder.

    Returns:
        A URI, or None when tracking is off. The user's choice beats the environment.

    Raises:
        InputError: for a plain path, which MLflow no longer accepts.
    """
    wanted = tracking_uri or os.environ.get(URI_VARIABLE)
    if not wanted:
        return f"sqlite:///{(output_dir / 'mlruns.db').resolve()}"
    if wanted.lower() == "none":
        return None
    if "://" not in wanted or wanted.startswith("file:"):
        raise InputError(
            f"tracking_uri: expected a database or a server, such as sqlite:///runs.db or "
            f"http://localhost:5000, or 'none'; found {wanted!r}. MLflow no longer writes to "
            f"plain folders."
        )
    return wanted


class Tracker:
    """Tracks one run; every method does nothing when tracking is off.

    The run is FINISHED by `finish`, FAILED by `fail` or when the process ends before either.

    Args:
        output_dir: the run's folder, home of the default database and its artifacts.
        tracking_uri: see `resolve_uri`.
        run_name: start of the run's name; a time and a random suffix make it unique.
    """

    def __init__(
        self, output_dir: str, tracking_uri: str | None = None, run_name: str = "aeflow"
    ) -> None:
        self.output_dir = Path(output_dir)
        self.uri = resolve_uri(tracking_uri, self.output_dir)
        self.run_name = f"{run_name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self.handler: MLFlowHandler | None = None

    @property
    def active(self) -> bool:
        """Whether a run is open."""
        return self.handler is not None

    @property
    def where(self) -> str:
        """Where the run can be found, in words."""
        return "off" if self.uri is None else f"{self.uri} (run {self.run_name})"

    def start(self, parameters: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Opens the run and records its parameters.

        Args:
            parameters: plain values.
            tags: further labels of the run.
        """
        if self.uri is None:
            return
        writable_folder(self.output_dir)
        with _environment_hidden():
            handler: Any = MLFlowHandler(
                tracking_uri=self.uri,
                experiment_name=EXPERIMENT,
                run_name=self.run_name,
                iteration_log=False,
            )
        handler._set_experiment()
        handler.cur_run = handler.client.create_run(
            experiment_id=handler.experiment.experiment_id,
            run_name=self.run_name,
            tags=dict(tags or {}),
        )
        handler._log_params({k: _short(v) for k, v in parameters.items()})
        self.handler = handler
        atexit.register(self.fail)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Records numbers at a step."""
        if self.handler is not None and metrics:
            self.handler._log_metrics({k: float(v) for k, v in metrics.items()}, step=step)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Records a file, or a folder with all its files."""
        if self.handler is None:
            return
        handler: Any = self.handler
        client, run_id = handler.client, handler.cur_run.info.run_id
        if path.is_dir():
            client.log_artifacts(run_id, str(path), folder)
        else:
            client.log_artifact(run_id, str(path), folder)

    def finish(self) -> None:
        """Ends the run as FINISHED."""
        self._end("FINISHED")

    def fail(self) -> None:
        """Ends the run as FAILED, if it is still open."""
        self._end("FAILED")

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Ends the run as FAILED when the block raises."""
        try:
            yield
        except BaseException:
            self.fail()
            raise

    def _end(self, status: str) -> None:
        if self.handler is None:
            return
        handler, self.handler = self.handler, None
        atexit.unregister(self.fail)
        handler.run_finish_status = status
        handler.close()


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


@contextmanager
def _environment_hidden() -> Iterator[None]:
    """Hides the variable: MONAI's handler lets it beat its argument; the choice was made."""
    hidden = os.environ.pop(URI_VARIABLE, None)
    try:
        yield
    finally:
        if hidden is not None:
            os.environ[URI_VARIABLE] = hidden


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_PARAM_LENGTH else text[: MAX_PARAM_LENGTH - 3] + "..."

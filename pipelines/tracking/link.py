"""The way to one MLflow run: opening it, and sending it what was recorded."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines.common import writable_folder
from pipelines.tracking.address import URI_VARIABLE
from pipelines.tracking.database import make_database
from pipelines.tracking.errors import Trouble, diagnose
from transforms.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

EXPERIMENT = "aeflow"
KIND = "mlflow.experimentKind"
"""Tag of an experiment that decides which of MLflow's pages it opens on."""

MODEL_FOLDER = "registered_model"
"""Where in a run's artifacts a model lies that is registered."""

MOST_PARAMS = 100
MOST_METRICS = 1000
"""How many values one request may carry, by MLflow's own limits."""

QUICK_TIMEOUT = 10
"""Seconds after which a server that gives no answer counts as away."""

DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


@dataclass(frozen=True)
class Record:
    """One thing to be told to the tracking server.

    Attributes:
        kind: ``params``, ``tags``, ``metrics``, ``data``, ``artifact``, ``model``, ``again`` or
            ``end``.
        content: plain values. Params and tags: ``values``. Metrics: ``values``, ``step`` and
            ``time``. Data: ``name``, ``digest``, ``context`` and ``profile``. Artifact: ``path``
            and ``folder``. Model: ``name`` and ``path``. Again, for a run that goes on: nothing.
            End: ``status`` and ``time``. Times are in milliseconds since 1970, paths absolute.
    """

    kind: str
    content: dict[str, Any]


@dataclass
class RunFacts:
    """What a run is, whether or not the server knows of it yet.

    Attributes:
        name: unique; its last three parts (day, time, random) find the run again.
        started: milliseconds since 1970.
        tags: further labels.
        run_id: the server's own name for the run; None before it was created.
        attempted: whether its creation was tried, so that it may exist unknown to us.
    """

    name: str
    started: int
    tags: dict[str, str] = field(default_factory=dict)
    run_id: str | None = None
    attempted: bool = False


class RunLink:
    """Talks to the tracking server about one run; every call raises when the server is away.

    Args:
        uri: of the server or the database.
        run: the run.
    """

    def __init__(self, uri: str, run: RunFacts) -> None:
        self.uri = uri
        self.run = run
        self._handler: Any = None
        self._verified = run.run_id is None

    @property
    def connected(self) -> bool:
        """Whether the store has answered."""
        return self._handler is not None

    @property
    def experiment_id(self) -> str | None:
        """The store's name for the experiment; None before it has answered."""
        return str(self._handler.experiment.experiment_id) if self.connected else None

    def connect(self) -> MlflowClient:
        """MLflow's client; the experiment exists once it is there."""
        if self._handler is None:
            _probe(self.uri)
            # MLflow would tell its makers of every use; nothing leaves unless it was asked for.
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            from monai.handlers import MLFlowHandler

            make_database(self.uri, EXPERIMENT)
            with hidden_environment(), _patience(QUICK_TIMEOUT):
                handler: Any = MLFlowHandler(
                    tracking_uri=self.uri, experiment_name=EXPERIMENT, iteration_log=False
                )
                try:
                    handler._set_experiment()
                except ValueError as error:  # MONAI's own, for a deleted experiment
                    raise InputError(
                        f"tracking_uri: the experiment {EXPERIMENT!r} was deleted there. Restore "
                        f"it with 'mlflow experiments restore', or choose another --tracking_uri."
                    ) from error
                self._tell_kind(handler)
            self._handler = handler
        client: MlflowClient = self._handler.client
        return client

    @staticmethod
    def _tell_kind(handler: Any) -> None:
        """Lets MLflow's page open on the runs: by itself it takes them for language models'."""
        if KIND not in handler.experiment.tags:
            number = handler.experiment.experiment_id
            handler.client.set_experiment_tag(number, KIND, "custom_model_development")

    def open(self) -> str:
        """Finds or creates the run and returns the server's name for it."""
        client, run = self.connect(), self.run
        with _patience(QUICK_TIMEOUT):
            if not self._verified:
                run.run_id = run.run_id if self._exists(client, run.run_id) else None
                self._verified = True
            if run.run_id is None:
                run.run_id = (self._find(client) if run.attempted else None) or self._create(client)
        return run.run_id

    def find(self) -> bool:
        """Whether the server knows of the run; it is not created."""
        client, run = self.connect(), self.run
        with _patience(QUICK_TIMEOUT):
            if not self._exists(client, run.run_id):
                run.run_id = self._find(client)
        self._verified = True
        return run.run_id is not None

    def check_registry(self) -> None:
        """Asks the store for its registered models; raises where it keeps none."""
        client = self.connect()
        with _patience(QUICK_TIMEOUT):
            client.search_registered_models(max_results=1)

    def answers(self) -> bool:
        """Whether the server takes requests at all."""
        try:
            with _patience(QUICK_TIMEOUT):
                self.connect().get_experiment_by_name(EXPERIMENT)
        except Exception:  # whatever is wrong, it does not answer
            return False
        return True

    @property
    def running(self) -> bool:
        """Whether the server takes the run for not ended."""
        with _patience(QUICK_TIMEOUT):
            return bool(self.connect().get_run(self.open()).info.status == "RUNNING")

    def send(self, records: Sequence[Record]) -> None:
        """Sends records of one kind; several only of metrics. What arrived twice counts once."""
        run_id, kind = self.open(), records[0].kind
        if kind == "metrics":
            self._send_metrics(run_id, records)
            return
        (record,) = records
        sending: dict[str, Callable[..., None]] = {
            "params": self._send_params,
            "tags": self._send_tags,
            "data": self._send_data,
            "artifact": self._send_artifact,
            "model": self._send_model,
            "again": self._send_again,
            "end": self._send_end,
        }
        sending[kind](run_id, **record.content)

    def close(self) -> None:
        """Lets go of a database file."""
        if self._handler is not None:
            self._handler.close()

    def _create(self, client: MlflowClient) -> str:
        run = self.run
        run.attempted = True
        created = client.create_run(
            experiment_id=self._handler.experiment.experiment_id,
            start_time=run.started,
            tags=dict(run.tags),
            run_name=run.name,
        )
        return str(created.info.run_id)

    def _find(self, client: MlflowClient) -> str | None:
        # The first part of a name is the user's and may hold any character; the rest is ours.
        tail = "-".join(self.run.name.split("-")[-3:])
        found = client.search_runs(
            [self._handler.experiment.experiment_id],
            filter_string=f"attributes.run_name LIKE '%-{tail}'",
        )
        return str(found[0].info.run_id) if found else None

    def _exists(self, client: MlflowClient, run_id: str | None) -> bool:
        try:
            return run_id is not None and client.get_run(run_id) is not None
        except Exception as error:  # the run was sent to another server
            if diagnose(error) is not Trouble.REJECTED:
                raise
            return False

    def _send_metrics(self, run_id: str, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), one.content["time"], one.content["step"])
            for one in records
            for name, value in one.content["values"].items()
        ]
        with _patience(QUICK_TIMEOUT):
            for start in range(0, len(metrics), MOST_METRICS):
                self.connect().log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])

    def _send_params(self, run_id: str, values: dict[str, str]) -> None:
        from mlflow.entities import Param

        with _patience(QUICK_TIMEOUT):
            known = self.connect().get_run(run_id).data.params  # MLflow lets none be changed
            params = [Param(name, value) for name, value in values.items() if name not in known]
            for start in range(0, len(params), MOST_PARAMS):
                self.connect().log_batch(run_id, params=params[start : start + MOST_PARAMS])

    def _send_tags(self, run_id: str, values: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        with _patience(QUICK_TIMEOUT):
            self.connect().log_batch(run_id, tags=[RunTag(n, v) for n, v in values.items()])

    def _send_data(
        self, run_id: str, name: str, digest: str, context: str, profile: dict[str, int]
    ) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        nowhere = json.dumps({"tags": {}})  # MLflow's source of what it cannot load again
        dataset = Dataset(name, digest, "code", nowhere, profile=json.dumps(profile))
        tag = InputTag("mlflow.data.context", context)
        with _patience(QUICK_TIMEOUT):
            self.connect().log_inputs(run_id, [DatasetInput(dataset, [tag])])

    def _send_artifact(self, run_id: str, path: str, folder: str | None) -> None:
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} is not there any more")
        with _patience(None):
            if Path(path).is_dir():
                self.connect().log_artifacts(run_id, path, folder)
            else:
                self.connect().log_artifact(run_id, path, folder)

    def _send_model(self, run_id: str, name: str, path: str) -> None:
        """Uploads a packaged model and registers it as the next version, then drops the package."""
        self._send_artifact(run_id, path, MODEL_FOLDER)
        with _patience(QUICK_TIMEOUT):
            self._register(run_id, name)
        shutil.rmtree(path, ignore_errors=True)

    def _register(self, run_id: str, name: str) -> None:
        client = self.connect()
        try:
            client.create_registered_model(name)
        except Exception as error:  # MLflow tells an existing name by its code alone
            if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = client.search_model_versions(f"name='{name}'")
        if all(version.run_id != run_id for version in versions):
            artifacts = client.get_run(run_id).info.artifact_uri.rstrip("/")
            made = client.create_model_version(name, f"{artifacts}/{MODEL_FOLDER}", run_id)
            logger.info("Model registered: models:/%s/%s", name, made.version)

    def _send_again(self, run_id: str) -> None:
        with _patience(QUICK_TIMEOUT):
            self.connect().update_run(run_id, status="RUNNING")

    def _send_end(self, run_id: str, status: str, time: int) -> None:
        # MLflow prints the run's address, password included.
        silent = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
        secret = bool(urlsplit(self.uri).password)
        with _patience(QUICK_TIMEOUT), _environment(silent if secret else {}):
            self.connect().set_terminated(run_id, status, end_time=time)


def next_batch(records: Sequence[Record]) -> list[Record]:
    """The first records that can go together: metrics up to a request's size, else one."""
    batch, size = [records[0]], len(records[0].content.get("values", ()))
    for record in list(records)[1:]:
        size += len(record.content.get("values", ()))
        if record.kind != "metrics" or batch[0].kind != "metrics" or size > MOST_METRICS:
            break
        batch.append(record)
    return batch


@contextmanager
def hidden_environment() -> Iterator[None]:
    """Hides the URI: MONAI's handler lets it beat its argument; the choice was made."""
    hidden = os.environ.pop(URI_VARIABLE, None)
    try:
        yield
    finally:
        os.environ.pop(URI_VARIABLE, None)  # MLflow sets it, which a later run would follow
        if hidden is not None:
            os.environ[URI_VARIABLE] = hidden


@contextmanager
def _patience(seconds: int | None) -> Iterator[None]:
    """Lets MLflow's requests fail soon instead of after minutes; what the user set, stays."""
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    if seconds is not None:
        wanted["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(seconds)
    with _environment({name: v for name, v in wanted.items() if name not in os.environ}):
        yield


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _probe(uri: str) -> None:
    """Fails at once for a database that cannot be opened, where MLflow would retry for minutes."""
    if uri.startswith("sqlite:///"):
        path = uri.removeprefix("sqlite:///").partition("?")[0]
        writable_folder(Path(path).parent, "tracking_uri")
        return
    parts = urlsplit(uri)
    port = DATABASE_PORTS.get(parts.scheme.partition("+")[0])
    if port is not None and parts.hostname:
        socket.create_connection((parts.hostname, parts.port or port), QUICK_TIMEOUT).close()

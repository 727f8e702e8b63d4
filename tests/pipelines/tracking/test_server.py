"""Tracking and registering with a real MLflow server, which goes away and comes back."""

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from networks import part_column
from pipelines.data.slices import CaseLoader
from pipelines.export.registry import check_registry, register_scorer
from pipelines.scoring.model_file import save_model
from pipelines.tracking.link import EXPERIMENT
from pipelines.tracking.outbox import main
from pipelines.tracking.tracker import Tracker

STARTING = 180.0
"""Seconds that a server may take to answer, on a busy machine."""


class Server:
    """An MLflow server of one folder, which can be killed and started again at its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--workers",
            "1",
        ]
        command += ["--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + STARTING
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"no server: {(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != errno.ECONNREFUSED

    def stop(self) -> None:
        """Kills the server and its workers, and waits until the last of them is gone."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait(60)
            self.process = None
            deadline = time.monotonic() + STARTING
            while self.listens():  # a worker may outlive the server a while, and reset connections
                assert time.monotonic() < deadline, f"{self.uri} does not go away"
                time.sleep(0.05)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri)

    def run(self, name: str) -> Any:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        runs = self.client.search_runs([experiment.experiment_id])
        (found,) = [run for run in runs if run.info.run_name == name]
        return found

    def history(self, name: str, metric: str = "loss") -> list[Any]:
        return list(self.client.get_metric_history(self.run(name).info.run_id, metric))

    def artifact(self, name: str, path: str, into: Path) -> bytes:
        found = self.client.download_artifacts(self.run(name).info.run_id, path, str(into))
        return Path(found).read_bytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("server"))
    with pytest.MonkeyPatch.context() as patch:
        # On a busy machine a server that is there may take long to answer.
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(STARTING)))
        try:
            one.start()
            yield one
        finally:
            one.stop()


def test_a_whole_run(server: Server, tmp_path: Path) -> None:
    before = int(time.time() * 1000)
    tracker = Tracker(str(tmp_path / "out"), server.uri, "whole")
    options = {f"option_{i}": i for i in range(150)}  # more than one request may carry
    tracker.start({"seed": 3, "encoder": "resnet18", **options}, {"phase": "training"})
    assert server.run(tracker.run_name).info.status == "RUNNING"
    for step in (1, 2):
        tracker.log_metrics({"loss": 1.0 / step, "less": float("nan")}, step=step)
    (tmp_path / "out" / "curves.png").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    tracker.log_artifact(tmp_path / "out" / "curves.png")
    tracker.log_artifact(tmp_path / "folder", "deep")
    tracker.finish()
    run = server.run(tracker.run_name)
    assert run.info.status == "FINISHED"
    assert before <= run.info.start_time <= run.info.end_time <= int(time.time() * 1000)
    assert run.data.params["seed"] == "3" and len(run.data.params) == 152
    assert run.data.tags["phase"] == "training"
    told = server.history(tracker.run_name)
    assert [(one.step, one.value) for one in told] == [(1, 1.0), (2, 0.5)]
    picture = server.artifact(tracker.run_name, "curves.png", tmp_path)
    assert picture == (tmp_path / "out" / "curves.png").read_bytes()
    assert server.artifact(tracker.run_name, "deep/a.txt", tmp_path) == b"a"
    assert not (tmp_path / "out" / "untracked").exists()


def test_an_error_fails_the_run(server: Server, tmp_path: Path) -> None:
    tracker = Tracker(str(tmp_path), server.uri, "wrong")
    tracker.start({})
    with pytest.raises(ZeroDivisionError), tracker.guard():
        raise ZeroDivisionError
    assert server.run(tracker.run_name).info.status == "FAILED"


def test_a_registered_model_scores_as_the_scorer_does(
    server: Server,
    make_scorer: Any,
    make_images: Any,
    calibrate: Any,
    model_facts: dict[str, Any],
    tmp_path: Path,
) -> None:
    scorer = calibrate(make_scorer(with_head=True), make_images(16))
    facts = model_facts | {
        "preprocessing": CaseLoader(image_size=32, channels=1).parameters,
        "case_scores": [],
        "case_weights": [],
        "target_fpr": 0.2,
    }
    save_model(tmp_path / "model.pt", scorer, facts)
    tracker = Tracker(str(tmp_path / "out"), server.uri, "train")
    check_registry(tracker, "tiny")
    tracker.start({})
    register_scorer(tracker, "tiny", tmp_path / "model.pt")
    tracker.finish()
    told = server.client.get_model_version("tiny", "1")
    assert told.run_id == server.run(tracker.run_name).info.run_id
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server.uri)
    try:
        model = mlflow.pyfunc.load_model("models:/tiny/1", dst_path=str(tmp_path))
    finally:
        mlflow.set_tracking_uri(before)
    images = make_images(5, seed=3)
    found = model.predict(images.numpy())
    with torch.no_grad():
        scored = scorer.score_image(images)
    told = {name: getattr(scored, name) for name in ("score", "percentile", "flagged")}
    told["p_value"] = scorer.calibration.p_value(scored.score)
    told |= {part_column(name): value for name, value in scored.parts.items()}
    assert set(found.columns) == set(told)
    for name, value in told.items():
        np.testing.assert_allclose(found[name], value.numpy(), atol=1e-6)
    assert {"score", "head_score", "flagged"} <= set(found.columns)


@dataclass
class Outage:
    """What an outage of the server did to runs that were under way.

    Attributes:
        trackers: by what the outage hit of the run.
        began: when the server was gone, in milliseconds.
        ended: when no run was told anything more, in milliseconds.
        restarted: when the server was started again.
        warnings: by the same names, what was told.
        folder: holds the output folders by these names.
    """

    trackers: dict[str, Tracker]
    began: int
    ended: int
    restarted: int
    warnings: dict[str, list[str]]
    folder: Path


@pytest.fixture(scope="module")
def outage(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Outage:
    """Runs before, in and after an outage; the one that ends in it waits for the server."""
    folder = tmp_path_factory.mktemp("outage")
    names = ("start", "middle", "end", "lost", "failed")
    trackers = {name: Tracker(str(folder / name), server.uri, name) for name in names}
    hearing = _Hearing(trackers)
    logging.getLogger("pipelines").addHandler(hearing)
    for name in ("middle", "end", "lost", "failed"):
        trackers[name].start({"seed": 1}, {"phase": "training"})
        trackers[name].log_metrics({"loss": 100.0}, step=0)
    server.stop()
    began = int(time.time() * 1000)
    hearing.current = "start"
    trackers["start"].start({"seed": 1}, {"phase": "training"})
    for name, tracker in trackers.items():
        hearing.current = name
        for step in range(1, 6):
            tracker.log_metrics({"loss": 100.0 - step}, step=step)
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "curves.png").write_bytes(name.encode() * 1000)
        tracker.log_artifact(folder / name / "curves.png", "pictures")
    for name, end in (("lost", trackers["lost"].finish), ("failed", trackers["failed"].fail)):
        hearing.current, trackers[name].patience = name, 0.0
        end()
    ended = int(time.time() * 1000)
    hearing.current = "end"
    restarted: list[int] = []

    def restart(_: float) -> None:
        restarted.append(int(time.time() * 1000))
        server.start()

    _patient(trackers["end"], restart)
    trackers["end"].finish()
    for name in ("start", "middle"):
        hearing.current = name
        _soon(trackers[name])
        trackers[name].log_metrics({"loss": 0.0}, step=6)
    logging.getLogger("pipelines").removeHandler(hearing)
    return Outage(trackers, began, ended, restarted[0], hearing.told, folder)


class _Hearing(logging.Handler):
    def __init__(self, names: Any) -> None:
        super().__init__(logging.WARNING)
        self.current = ""
        self.told: dict[str, list[str]] = {name: [] for name in names}

    def emit(self, record: logging.LogRecord) -> None:
        self.told[self.current].append(record.getMessage())


def _patient(tracker: Tracker, wait: Callable[[float], None]) -> None:
    assert tracker.outbox is not None
    tracker.outbox.wait = wait
    tracker.patience = 2 * STARTING


def _soon(tracker: Tracker) -> None:
    """Lets the pause before the next attempt be over."""
    assert tracker.outbox is not None
    tracker.outbox.clock = lambda: time.monotonic() + 1000.0


@pytest.mark.parametrize("name", ["start", "middle", "end"])
def test_a_run_survives_an_outage(outage: Outage, server: Server, name: str) -> None:
    tracker = outage.trackers[name]
    (warning,) = outage.warnings[name]
    assert server.uri in warning and "connection refused" in warning
    told = server.history(tracker.run_name)
    wanted = {"start": [*range(1, 7)], "middle": [*range(7)], "end": [*range(6)]}[name]
    assert [one.step for one in told] == wanted
    late = [one.timestamp for one in told if 1 <= one.step <= 5]
    assert late == sorted(late) and outage.began <= late[0] and late[-1] <= outage.ended
    run = server.run(tracker.run_name)
    assert run.data.params == {"seed": "1"} and run.data.tags["phase"] == "training"
    if name == "start":
        assert outage.began <= run.info.start_time <= late[0]
    picture = server.artifact(tracker.run_name, "pictures/curves.png", outage.folder)
    assert picture == name.encode() * 1000
    assert not (outage.folder / name / "untracked").exists()


@pytest.mark.parametrize("name", ["start", "middle", "end"])
def test_it_ends_as_finished(outage: Outage, server: Server, name: str) -> None:
    tracker = outage.trackers[name]
    tracker.finish()
    run = server.run(tracker.run_name)
    assert run.info.status == "FINISHED" and not tracker.active
    if name == "end":  # the end is true, although the server was told later
        assert outage.ended <= run.info.end_time <= outage.restarted
        assert tracker.where == f"{server.uri} (run {tracker.run_name})"


@pytest.mark.parametrize(("name", "status"), [("lost", "FINISHED"), ("failed", "FAILED")])
def test_what_was_kept_is_sent_later(
    outage: Outage, server: Server, name: str, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = outage.trackers[name]
    away, kept = outage.warnings[name]
    assert "not available" in away and "are kept in" in kept
    command = tracker.where.partition("python -m pipelines.tracking.outbox ")[2]
    assert command and command in kept
    assert server.run(tracker.run_name).info.status == "RUNNING"
    main(command.split())
    assert "7 record(s) sent" in capsys.readouterr().out
    run = server.run(tracker.run_name)
    assert run.info.status == status and run.info.end_time <= outage.ended
    assert [one.step for one in server.history(tracker.run_name)] == [*range(6)]
    picture = server.artifact(tracker.run_name, "pictures/curves.png", outage.folder)
    assert picture == name.encode() * 1000
    assert not (outage.folder / name / "untracked").exists()

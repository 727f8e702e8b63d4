"""A database file appears with all its tables or not at all."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.tracking.database import make_database
from pipelines.tracking.tracker import Tracker


def test_a_process_killed_while_it_makes_the_database_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    program = f"""
import os, signal, sqlite3, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
@event.listens_for(Engine, "before_cursor_execute")
def die(connection, cursor, statement, *_):
    if "CREATE TABLE model_versions" in statement or "CREATE TABLE metrics" in statement:
        os.kill(os.getpid(), signal.SIGKILL)
from pipelines.tracking.tracker import Tracker
Tracker({str(tmp_path)!r}, "sqlite:///{path}", "test").start({{}})
"""
    root = str(Path(__file__).parents[3])
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True)
    assert done.returncode == -9 and not path.exists()
    tracker = Tracker(str(tmp_path), f"sqlite:///{path}", "test")
    tracker.start({"a": 1})
    tracker.finish()
    client = MlflowClient(tracking_uri=tracker.uri)
    experiments = {one.name: one for one in client.search_experiments()}
    (run,) = client.search_runs([experiments["aeflow"].experiment_id])
    assert run.info.status == "FINISHED" and run.data.params == {"a": "1"}
    inside = (tmp_path / "mlruns").as_uri()
    assert all(one.artifact_location.startswith(inside) for one in experiments.values())


def test_a_database_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.db"
    sqlite3.connect(path).close()
    path.write_bytes(b"")
    make_database(f"sqlite:///{path}", "aeflow")
    assert path.read_bytes() == b""
    make_database("sqlite:///:memory:", "aeflow")
    make_database("http://server:5000", "aeflow")
    assert [one.name for one in tmp_path.iterdir()] == ["runs.db"]

"""Where a run is tracked."""

import os
from pathlib import Path

import pytest

from pipelines.tracking.address import URI_VARIABLE, resolve_uri
from pipelines.tracking.tracker import Tracker
from transforms.errors import InputError


def test_the_default_is_a_database_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None, tmp_path / "out") == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert resolve_uri("", tmp_path / "out") == resolve_uri(None, tmp_path / "out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert resolve_uri(None, tmp_path / "out") == f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}"


def test_the_environment_beats_the_default_and_the_argument_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URI_VARIABLE, "http://server:5000")
    assert resolve_uri(None, tmp_path) == "http://server:5000"
    assert resolve_uri("sqlite:///mine.db", tmp_path) == "sqlite:///mine.db"
    assert resolve_uri("none", tmp_path) is None
    monkeypatch.setenv(URI_VARIABLE, "none")
    assert resolve_uri(None, tmp_path) is None


@pytest.mark.parametrize(
    "uri",
    [
        "mlruns",
        "/data/mlruns",
        "file:///data/mlruns",
        "file:mlruns",
        "localhost:5000",
        "htp://localhost:5000",
        "sqlite://runs.db",
        "http://",
        "http://:5000",
        "http://server:port",
        "http://server:99999",
        "http://my server:5000",
        "http://[::1",
    ],
)
def test_what_is_surely_no_store_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(InputError, match="tracking_uri: expected a database or a server"):
        Tracker(str(tmp_path), uri)


def test_the_address_that_was_meant_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean http://localhost:5000?"):
        resolve_uri("localhost:5000", tmp_path)


def test_other_stores_are_left_to_mlflow(tmp_path: Path) -> None:
    for uri in ("postgresql+psycopg2://me@db/runs", "https://server/path", "http://[::1]:5000"):
        assert resolve_uri(uri, tmp_path) == uri

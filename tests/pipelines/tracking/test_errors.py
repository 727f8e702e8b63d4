"""What errors of tracking servers and databases mean."""

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import ReadTimeout

from pipelines.tracking.errors import Trouble, describe, diagnose, masked
from pipelines.tracking.tracker import Tracker
from transforms.errors import InputError


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://me:pass@host:5000/x", "http://me:***@host:5000/x"),
        ("mysql+pymysql://me:p@ss@db/x", "mysql+pymysql://me:***@db/x"),
        ("http://host/a@b:c", "http://host/a@b:c"),
        ("sqlite:////data/a.db", "sqlite:////data/a.db"),
    ],
)
def test_passwords_are_not_told(uri: str, told: str, tmp_path: Path) -> None:
    assert masked(uri) == told
    assert Tracker(str(tmp_path), uri).where.startswith(told)


@pytest.fixture
def answering() -> Iterator[Callable[[int, str], str]]:
    """A server that answers everything with one status and text; gives its address."""
    servers = []

    def start(status: int, text: str) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (401, "who are you?", "does not let us in: .*MLFLOW_TRACKING_USERNAME"),
        (403, "<html>not you</html>", "does not let us in"),
        (404, "not here", "not as an MLflow server"),
        (200, "<html>welcome</html>", "not as an MLflow server"),
    ],
)
def test_what_waiting_cannot_cure_is_told_at_the_start(
    answering: Callable[[int, str], str], status: int, text: str, message: str, tmp_path: Path
) -> None:
    uri = answering(status, text)
    with pytest.raises(InputError, match=f"tracking_uri: {uri} .*{message}"):
        Tracker(str(tmp_path), uri).start({})


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_that_fails_is_waited_for(
    answering: Callable[[int, str], str], status: int, tmp_path: Path
) -> None:
    tracker = Tracker(str(tmp_path), answering(status, "later"))
    tracker.start({})
    tracker.fail()
    assert len(list((tmp_path / "untracked").iterdir())) == 1


def test_databases_that_cannot_be_opened_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no.db").write_text("this is no database" * 100)
    with pytest.raises(InputError, match="tracking_uri: .* cannot be used as a database"):
        Tracker(str(tmp_path), f"sqlite:///{tmp_path / 'no.db'}").start({})
    with pytest.raises(InputError, match="tracking_uri: the folder .* cannot be created"):
        Tracker(str(tmp_path), f"sqlite:///{tmp_path / 'no.db' / 'runs.db'}").start({})
    tracker = Tracker(str(tmp_path), "postgresql://me@127.0.0.1:1/runs")
    tracker.start({})
    tracker.fail()


def test_errors_are_sorted_by_what_can_be_done() -> None:
    assert diagnose(ConnectionResetError()) is Trouble.AWAY
    assert diagnose(socket.gaierror(-2, "unknown")) is Trouble.AWAY
    assert diagnose(FileNotFoundError("a.png")) is Trouble.REJECTED
    assert diagnose(ValueError("bad")) is Trouble.REJECTED
    hung = NoConnection("Max retries exceeded")
    hung.__cause__ = ReadTimeout("read timed out")
    assert diagnose(hung) is Trouble.AWAY and describe(hung) == "no answer in time"
    assert "spelling" in describe(socket.gaierror(-2, "unknown"))
    assert describe(ConnectionRefusedError(111, "Connection refused")) == "connection refused"
    assert len(describe(ValueError("long " * 100))) == 200

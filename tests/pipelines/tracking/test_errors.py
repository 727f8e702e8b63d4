"""What errors of tracking servers and databases mean."""

import socket
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from http.client import IncompleteRead, RemoteDisconnected
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from requests.exceptions import ChunkedEncodingError, ReadTimeout
from requests.exceptions import ConnectionError as NoConnection
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection
from urllib3.exceptions import (
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from pipelines.tracking.address import masked
from pipelines.tracking.errors import Trouble, describe, diagnose
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


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """An error as ``raise error from cause`` leaves it."""
    error.__cause__ = cause
    return error


def handled(error: BaseException, context: BaseException) -> BaseException:
    """An error as it is when it was raised while another was handled."""
    error.__context__ = context
    return error


def by_mlflow(reason: BaseException) -> BaseException:
    """What MLflow's client raises for what urllib3 gives as its last reason."""
    tried = caused(MaxRetryError(POOL, "/api/2.0/mlflow/runs/create", reason), reason)  # type: ignore[arg-type]
    lost = handled(NoConnection(tried), tried)
    return handled(MlflowException(f"API request to http://host failed with {lost}"), lost)


POOL = HTTPConnectionPool("host")
REFUSED = ConnectionRefusedError(111, "Connection refused")
UNKNOWN = socket.gaierror(-2, "Name or service not known")
RESET = ConnectionResetError(104, "Connection reset by peer")
CLOSED = RemoteDisconnected("Remote end closed connection without response")
BROKEN = ProtocolError("Connection broken", IncompleteRead(b"no", 1998))


def no_connection() -> BaseException:
    return caused(NewConnectionError(HTTPConnection("host"), "failed"), REFUSED)


def no_address() -> BaseException:
    return NameResolutionError("host", HTTPConnection("host"), UNKNOWN)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (by_mlflow(no_connection()), "connection refused"),
        (NoConnection(MaxRetryError(POOL, "/", REFUSED)), "connection refused"),
        (by_mlflow(handled(no_connection(), CLOSED)), "connection refused"),
        (by_mlflow(ProtocolError("Connection aborted.", RESET)), "connection reset by the server"),
        (
            by_mlflow(ProtocolError("Connection aborted.", CLOSED)),
            "connection closed by the server without an answer",
        ),
        (
            handled(ChunkedEncodingError(BROKEN), BROKEN),
            "connection closed by the server in the middle of an answer",
        ),
        (by_mlflow(ReadTimeoutError(POOL, "/", "Read timed out.")), "no answer in time"),
        (
            by_mlflow(no_address()),
            "its name is unknown here; check the spelling, and the network",
        ),
        (
            by_mlflow(caused(no_address(), UNKNOWN)),
            "its name is unknown here; check the spelling, and the network",
        ),
        (
            handled(ValueError("odd"), OSError(28, "No space left on device")),
            "no space left on device",
        ),
        (
            by_mlflow(caused(ValueError("autoflush"), sqlite3.OperationalError("disk is full"))),
            "disk is full",
        ),
    ],
)
def test_the_whole_chain_tells_what_went_wrong(error: BaseException, told: str) -> None:
    assert describe(error) == told


def test_a_chain_that_bites_its_tail_is_told() -> None:
    error = ValueError("odd")
    assert describe(handled(error, handled(KeyError("a"), error))) == "odd"


@pytest.mark.parametrize(("linger", "told"), [(None, "closed"), (0, "reset")])
def test_a_connection_that_breaks_is_told(
    linger: int | None, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            if linger is not None:
                option = struct.pack("ii", 1, linger)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, daemon=True).start()
        tracker = Tracker(str(tmp_path), f"http://127.0.0.1:{listener.getsockname()[1]}")
        tracker.start({})
    tracker.fail()
    assert f"is not available: connection {told} by the server" in caplog.text

"""What an error of a tracking server means: wait for it, or tell the user at once."""

from __future__ import annotations

import re
import socket
from collections import deque
from collections.abc import Iterator
from enum import Enum

from pipelines.tracking.address import masked
from transforms.errors import InputError

AWAY_STATUS = (408, 429)
"""HTTP statuses below 500 that pass by themselves: time-out and too many requests."""

NEVER_STATUS = 501
"""The one above that does not pass: what is asked for is not implemented."""

CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"

BY_OTHERS = ("is locked", "already exists")
"""What SQLite or MLflow say while other runs write into the same database."""

IN_WORDS = {
    "^gaierror$|^NameResolution": "its name is unknown here; check the spelling, and the network",
    "Timeout": "no answer in time",
    "^ConnectionRefusedError$": "connection refused",
    "^RemoteDisconnected$": "connection closed by the server without an answer",
    "^IncompleteRead$": "connection closed by the server in the middle of an answer",
    "^ConnectionResetError$": "connection reset by the server",
    "^RetryError$": "it answers with errors or is overloaded",
}
"""What an error says whose chain holds one of this name; the first that fits."""


class Trouble(Enum):
    """What can be done about an error.

    Attributes:
        AWAY: nobody answers, or the server fails; the same request may succeed later.
        REFUSED: the server does not let us in.
        REJECTED: the server, or the file system, will never accept this request.
    """

    AWAY = "away"
    REFUSED = "refused"
    REJECTED = "rejected"


def diagnose(error: BaseException) -> Trouble:
    """Sorts an error that a tracking call raised."""
    status = _status(error)
    if status in (401, 403):
        return Trouble.REFUSED
    if status is not None:
        passing = (status >= 500 and status != NEVER_STATUS) or status in AWAY_STATUS
        return Trouble.AWAY if passing else Trouble.REJECTED
    away = isinstance(error, (ConnectionError, TimeoutError, socket.gaierror))
    return Trouble.AWAY if away or _of(error, "requests", "sqlalchemy") else Trouble.REJECTED


def describe(error: BaseException) -> str:
    """Says in a few words what went wrong, without the address, which may hold a password."""
    causes = list(_chain(error))
    names = "\n".join(type(cause).__name__ for cause in causes)
    for pattern, words in IN_WORDS.items():
        if re.search(pattern, names, re.MULTILINE):
            return words
    told = [one.strerror for one in causes if isinstance(one, OSError) and one.strerror]
    return told[-1].lower() if told else first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or of the database's behind it, not above a line."""
    error = next((cause for cause in _chain(error) if _of(cause, "sqlite3")), error)
    text = (str(error).splitlines() or [""])[0] or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def mistake_of(error: BaseException, uri: str) -> InputError | None:
    """The mistake that the user made, if an error at the start of a run is surely one.

    An absent server is none: training must not wait for it.
    """
    start, causes = f"tracking_uri: {masked(uri)} ", list(_chain(error))
    for cause in causes:
        if isinstance(cause, InputError):
            return cause
        if isinstance(cause, ImportError):
            return InputError(
                f"{start}needs a Python package that is not installed ({cause}). Install it, or "
                f"turn tracking off with --tracking_uri none."
            )
        if type(cause).__name__ in ("SSLError", "InvalidURL", "InvalidSchema"):
            return InputError(
                f"{start}cannot be spoken to: {first_line(causes[-1])}. Check http against https, "
                f"and the certificate (REQUESTS_CA_BUNDLE)."
            )
    if uri.startswith("sqlite"):
        told = first_line(error)
        if any(passing in told for passing in BY_OTHERS):
            return None
        return InputError(
            f"{start}cannot be used as a database: {told}. Name another file, e.g. --tracking_uri "
            f"sqlite:///runs.db, or turn tracking off with --tracking_uri none."
        )
    if diagnose(error) is Trouble.REFUSED:
        return InputError(
            f"{start}does not let us in: {first_line(error)}. Set {CREDENTIALS} in the "
            f"environment, or turn tracking off with --tracking_uri none."
        )
    if diagnose(error) is Trouble.REJECTED or _speaks_otherwise(error, causes):
        return InputError(
            f"{start}answers, but not as an MLflow server that takes runs: {first_line(error)}. "
            f"Check host, port and path."
        )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all errors behind it, each once; urllib3 hands some on as mere arguments."""
    waiting, seen = deque([error]), {id(error)}
    while waiting:
        current = waiting.popleft()
        yield current
        behind = (current.__cause__, current.__context__, *current.args)
        for one in (*behind, getattr(current, "reason", None)):
            if isinstance(one, BaseException) and id(one) not in seen:
                seen.add(id(one))
                waiting.append(one)


def _of(error: BaseException, *packages: str) -> bool:
    """Whether an error belongs to a package, which need not be imported to tell."""
    return any(kind.__module__.partition(".")[0] in packages for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error stands for, if any."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    if _of(error, "mlflow") and hasattr(error, "get_http_status_code"):
        return int(error.get_http_status_code())
    return None


def _speaks_otherwise(error: BaseException, causes: list[BaseException]) -> bool:
    """Whether something answered that is no MLflow server: no error of its, none on the way."""
    return type(error).__name__ == "MlflowException" and len(causes) == 1

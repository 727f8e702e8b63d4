"""Temporary files that never outlive the server, helpers that do not either, and quiet logs."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import psutil

_PREFIX = "aeflow-label-"
_SERVER = "AEFLOW_LABEL_SERVER"
_CHATTY = (
    *("monailabel", "__main__", "pydicom", "dicomweb_client", "watchdog", "filelock"),
    *("networks", "transforms", "pipelines"),
)


def serving() -> bool:
    """Whether this process is the server itself, not one of its background tasks."""
    return "monailabel.app" in sys.modules


def prepare() -> Path:
    """Gives this process a private temporary folder and ties its life to the server's.

    Returns:
        The folder; everything that is uploaded, unpacked or produced lies below it.
    """
    _silence()
    if not serving():
        _require_server()
        sweep()
    root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    tempfile.tempdir = str(root)
    os.environ["TMPDIR"] = str(root)
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    if serving():
        os.environ[_SERVER] = str(os.getpid())
        _remove_when_this_process_ends(root)
    elif _SERVER in os.environ:
        threading.Thread(target=_follow_server, args=(root,), daemon=True).start()
    return root


def sweep() -> None:
    """Removes what background tasks that were killed have left in the server's folder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        number = folder.name.removeprefix(_PREFIX).split("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _silence() -> None:
    """What MONAI Label logs of requests and headers, and our readers of files, can name people."""
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pydicom")


def _remove_when_this_process_ends(folder: Path) -> None:
    """Leaves a shell behind that waits for the end of its input, which comes however we end."""
    script = 'cat >/dev/null; rm -rf -- "$1"'
    process = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    globals()["_janitor"] = process  # keeps the pipe open as long as this process lives


def _server_lives() -> bool:
    return os.environ.get(_SERVER, str(os.getppid())) == str(os.getppid())


def _require_server() -> None:
    """A background task that starts when its server is already gone has nothing to do."""
    if not _server_lives():
        raise SystemExit("The server has ended.")


def _follow_server(root: Path) -> None:
    """Ends this background task, and what it started, when the server is gone."""
    while _server_lives():
        time.sleep(1.0)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    shutil.rmtree(root, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)

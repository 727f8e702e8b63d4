"""How long the MONAI Label app takes to start, and to answer about a study.

    python -m benchmarks.label_server --python <label environment>/bin/python --studies <folder>

Starts the server several times and asks it, one request after the other, about every study: first
as it comes, then in turns for the words, the label map and the continuous map. Milliseconds are
those that a client on the same machine waits.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import requests

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "bundles" / "monailabel"
LONGEST_START = 120.0
ASKED: dict[str, tuple[str, dict[str, str]]] = {
    "words": ("json", {}),
    "label map": ("image", {}),
    "continuous map": ("image", {"result": "map", "result_extension": ".nii.gz"}),
}


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start_arguments(app: Path, studies: Path | str, port: int, **conf: object) -> list[str]:
    """What MONAI Label's command takes to serve an app on this machine alone."""
    arguments = ["start_server", "--app", str(app), "--studies", str(studies)]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    for name, value in conf.items():
        arguments += ["--conf", name, str(value)]
    return arguments


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    log: Path,
    environment: Mapping[str, str],
    expected: int = 200,
    folder: Path | None = None,
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A server that ends with the block and with all its processes.

    Args:
        command: starts it.
        port: where it answers.
        log: takes what it prints.
        environment: its variables.
        expected: status of its first answer.
        folder: where it runs.

    Yields:
        The process, and the seconds from the command to the first answer.
    """
    began = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while not _answers(port, expected):
            if process.poll() is not None or time.monotonic() > began + LONGEST_START:
                raise RuntimeError(f"The server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.05)
        yield process, time.monotonic() - began
    finally:
        _stop(process)


def _answers(port: int, expected: int) -> bool:
    try:
        answer = requests.get(f"http://127.0.0.1:{port}/info/", timeout=LONGEST_START)
    except requests.ConnectionError:
        return False
    return answer.status_code == expected


def _stop(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
            return


@contextmanager
def serving(python: str, studies: Path, ckpt_dir: Path) -> Iterator[tuple[str, float, int]]:
    """The app on a free port, which does not score by itself: its address, seconds, process id."""
    port = free_port()
    arguments = start_arguments(APP, studies, port, models="aeflow", ckpt_dir=ckpt_dir)
    command = [python, "-m", "monailabel.main", *arguments]
    own = {"PYTHONPATH": str(ROOT), "MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log.txt"
        with running(command, port, log, {**os.environ, **own}) as (process, seconds):
            yield f"http://127.0.0.1:{port}", seconds, process.pid


def ask(url: str, study: str, what: str) -> float:
    """Milliseconds until an answer about a study is there."""
    output, params = ASKED[what]
    began = time.monotonic()
    answer = requests.post(
        f"{url}/infer/aeflow",
        params={"image": study, "output": output},
        data={"params": json.dumps(params)},
        timeout=600,
    )
    answer.raise_for_status()
    return (time.monotonic() - began) * 1000


def row(name: str, values: Sequence[float], unit: str) -> str:
    """A line of the table: least, median and greatest of some values."""
    shown = (min(values), median(values), max(values))
    low, middle, high = (f"{v:.0f}" if v >= 100 else f"{v:.3g}" for v in shown)
    return f"| {name} | {unit} | {low} | {middle} | {high} | {len(values)} |"


def measure(url: str, repeats: int) -> dict[str, list[float]]:
    """Milliseconds per kind of answer, over all studies; the first answer of all apart."""
    found: dict[str, Any] = requests.get(f"{url}/datastore/?output=all", timeout=60).json()
    studies = sorted(found["objects"])
    times: dict[str, list[float]] = {"first study": [ask(url, studies[0], "words")]}
    for _ in range(repeats):
        for study in studies:
            for what in ASKED:
                times.setdefault(what, []).append(ask(url, study, what))
    return times


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.label_server", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--python", required=True, help="of the label environment")
    parser.add_argument("--studies", type=Path, required=True)
    parser.add_argument("--ckpt_dir", type=Path, default=ROOT / "bundles" / "aeflow" / "models")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="rounds over all studies")
    options = parser.parse_args(arguments)
    starts: list[float] = []
    times: dict[str, list[float]] = {}
    peaks: list[float] = []
    for _ in range(options.starts):
        with serving(options.python, options.studies, options.ckpt_dir) as (url, seconds, pid):
            starts.append(seconds)
            for name, values in measure(url, options.repeats).items():
                times.setdefault(name, []).extend(values)
            peaks.append(psutil.Process(pid).memory_info().rss / 2**20)
    print("| what | unit | least | median | greatest | n |\n|---|---|---|---|---|---|")
    print(row("start to first answer", starts, "s"))
    for name, values in times.items():
        print(row(name, values, "ms"))
    print(row("resident memory afterwards", peaks, "MiB"))


if __name__ == "__main__":
    main()

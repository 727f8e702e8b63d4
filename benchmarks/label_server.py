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
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def serving(python: str, studies: Path, ckpt_dir: Path) -> Iterator[tuple[str, float, int]]:
    """A server that does not score by itself; ends with the block.

    Yields:
        Its address, the seconds from the command to the first answer, and its process id.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "monailabel.main", "start_server", "--app", str(APP)]
    command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--conf", "models", "aeflow", "--conf", "ckpt_dir", str(ckpt_dir)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
    }
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_for(url, process, began)
            yield url, time.monotonic() - began, process.pid
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(url: str, process: subprocess.Popen[bytes], began: float) -> None:
    while process.poll() is None and time.monotonic() < began + LONGEST_START:
        try:
            if requests.get(f"{url}/info/", timeout=LONGEST_START).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise SystemExit("The server did not start; start it by hand to see why.")


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

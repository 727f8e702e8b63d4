"""Kills a training again and again, and compares what it ends with.

    python -m benchmarks.kills --kills 20 --output <folder> -- --dataset_dir <data> --max_epochs 4

What follows ``--`` are options of train.json. The training is run once without interruption, then
once more with SIGKILLs at random moments of each phase, the last of them while the model is
written and scored; each time the same command goes on. The table tells when each kill fell; below
it stands whether all weights are equal, and how many MLflow runs there are.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from mlflow import MlflowClient

ROOT = Path(__file__).parents[1]

PHASES = ("reading", "pre-training", "training", "calibration", "model writing", "evaluation")
"""Of a training, in their order."""

ENDED = "its end"
"""What follows them: all is done, and the process about to leave."""

POLL = 0.002
"""Seconds between two looks at a log."""


class Kill(NamedTuple):
    """One kill.

    Attributes:
        phase: in which it fell.
        after: seconds since the command was given.
        resumed: what the command went on from; empty where it began.
    """

    phase: str
    after: float
    resumed: str


def phase_of(log: str) -> str:
    r"""The phase that a training is in, from what it has told so far.

    Example:
        >>> phase_of("Tracking: off\nPre-training epoch 2/2: loss 1\nEpoch 1/3: loss 1\n")
        'training'
    """
    phase = resumed_phase = "reading"
    for line in log.splitlines():
        if found := re.search(r"interrupted training from (.*?) \(", line):
            resumed_phase = _phase_after(found[1])
        elif "Tracking: " in line:
            phase = "pre-training" if resumed_phase == "reading" else resumed_phase
        elif found := re.search(r"(Pre-training e|E)poch (\d+)/(\d+):", line):
            number = PHASES.index("training" if found[1] == "E" else "pre-training")
            phase = PHASES[number + (found[2] == found[3])]
        elif "Calibrated on" in line:
            phase = "model writing"
        elif "Model written" in line:
            phase = "evaluation"
        elif line.startswith("===="):
            phase = ENDED
    return phase


def _phase_after(where: str) -> str:
    """The phase that comes next after what a checkpoint holds."""
    if where == "the end of train":
        return "calibration"
    return "training" if where.startswith(("train,", "the end of pretrain")) else "pre-training"


def durations(command: Sequence[str], log: Path) -> dict[str, float]:
    """Runs a training to its end and gives the seconds of each phase.

    Raises:
        RuntimeError: when it fails.
    """
    spent = dict.fromkeys((*PHASES, ENDED), 0.0)
    process = start(command, log)
    before = time.monotonic()
    while process.poll() is None:
        time.sleep(POLL)
        now = time.monotonic()
        spent[phase_of(log.read_text())] += now - before
        before = now
    if process.returncode:
        raise RuntimeError(f"the training failed; its log is {log}.")
    return spent


def killed(command: Sequence[str], log: Path, phase: str, delay: float) -> Kill | None:
    """Runs a training and kills it some seconds after a phase has begun; None if it ended first.

    Raises:
        RuntimeError: when it fails by itself.
    """
    order = (*PHASES, ENDED)
    process, began, due = start(command, log), time.monotonic(), None
    while process.poll() is None:
        now = time.monotonic()
        if due is None and order.index(phase_of(log.read_text())) >= order.index(phase):
            due = now + delay
        if due is not None and now >= due:
            process.kill()
            process.wait()
            break
        time.sleep(POLL)
    if process.returncode > 0:
        raise RuntimeError(f"the training failed; its log is {log}.")
    if process.returncode == 0:
        return None
    told = log.read_text()
    if phase_of(told) == ENDED:
        return None
    found = re.search(r"interrupted training from (.*?) \(", told)
    return Kill(phase_of(told), time.monotonic() - began, found[1] if found else "")


def equal_weights(first: Path, second: Path) -> bool:
    """Whether two model files hold the same state, bit for bit."""
    one, two = (torch.load(path, weights_only=True)["model"] for path in (first, second))
    return set(one) == set(two) and all(
        torch.equal(value, two[name]) for name, value in one.items()
    )


def run_states(database: Path) -> list[str]:
    """The status of each MLflow run in a SQLite database."""
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    experiments = [one.experiment_id for one in client.search_experiments()]
    return [str(one.info.status) for one in client.search_runs(experiments)]


def table(kills: Sequence[Kill]) -> str:
    """The kills as a table of Markdown."""
    lines = [
        "| kill | fell into | seconds after the start | had gone on from |",
        "|---|---|---|---|",
    ]
    for number, (phase, after, resumed) in enumerate(kills, start=1):
        lines.append(f"| {number} | {phase} | {after:.1f} | {resumed or '-'} |")
    return "\n".join(lines)


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts a program of this project, on one thread and with its output in a log."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as stream:
        return subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)


def _command(folder: Path, options: Sequence[str]) -> list[str]:
    config = ROOT / "bundles" / "aeflow" / "train.json"
    start = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(config)]
    places = ["--output_dir", str(folder / "output"), "--ckpt_dir", str(folder / "models")]
    tracking = ["--tracking_uri", f"sqlite:///{folder / 'runs.db'}"]
    return [*start, *places, *tracking, *options]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("options", nargs="*", help="options of train.json, after --")
    given = parser.parse_args(arguments)
    output, source = given.output.resolve(), random.Random(given.seed)
    output.mkdir(parents=True, exist_ok=True)
    spent = durations(_command(output / "straight", given.options), output / "straight.log")
    command, kills = _command(output / "killed", given.options), []
    for number in range(given.kills):
        phase = PHASES[number * len(PHASES) // given.kills]
        delay = source.uniform(0.0, spent[phase])
        kill = killed(command, output / f"kill{number + 1}.log", phase, delay)
        if kill is None:
            break
        kills.append(kill)
    else:
        durations(command, output / "last.log")
    equal = equal_weights(*(output / n / "models" / "model.pt" for n in ("straight", "killed")))
    print(table(kills))
    print(f"\nEqual weights: {'yes' if equal else 'NO'}.")
    print(f"MLflow runs: {', '.join(run_states(output / 'killed' / 'runs.db'))}.")


if __name__ == "__main__":
    main()

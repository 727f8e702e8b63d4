"""Seconds from the command to the calibrated, evaluated model, by phase.

``python -m benchmarks.end_to_end --config bundles/aeflow/train.json bundles/aeflow/gpu.json
--dataset_dir DATA --output found.json`` runs a training as a user does; ``--against FOLDER`` runs
the same command line in another checkout too, in turn, so that before and after stand in one table.
Seconds of the processor stand beside those of the clock, which other programs lengthen. Further
options go to the bundle as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.common import write_json

HERE = Path(__file__).resolve().parents[1]
Phases = Mapping[str, Sequence[float]]
"""By name: seconds of the clock, and of the processor."""


def measure(checkout: Path, arguments: Sequence[str]) -> Phases:
    """Trains once in a fresh process by the code of a checkout.

    Args:
        checkout: its folder.
        arguments: of ``python -m monai.bundle run training``.

    Returns:
        Seconds by phase.

    Raises:
        RuntimeError: if the training fails; with its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "seconds.json"
        places = ("--output_dir", f"{folder}/output", "--ckpt_dir", f"{folder}/models")
        script = HERE / "benchmarks" / "phases.py"
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        installed = (one for one in given if one and Path(one).resolve() != HERE)
        done = subprocess.run(
            [sys.executable, "-P", str(script), str(found), "run", "training", *places, *arguments],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(checkout), *installed))},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{checkout}: the training failed.\n{done.stderr[-2000:]}")
        phases: Phases = json.loads(found.read_text())
        return phases


def medians(rounds: Sequence[Phases]) -> dict[str, list[float]]:
    """The medians of rounds, phase by phase, and of their sums as ``total``."""
    whole = [
        dict(one) | {"total": [sum(column) for column in zip(*one.values(), strict=True)]}
        for one in rounds
    ]
    return {
        name: [
            statistics.median(one.get(name, (0.0, 0.0))[column] for one in whole)
            for column in range(2)
        ]
        for name in whole[-1]
    }


def table(found: Mapping[str, Phases]) -> list[str]:
    """The lines of a Markdown table; with two checkouts the last columns are ratios."""
    names = list(dict.fromkeys(name for phases in found.values() for name in phases))
    names.append(names.pop(names.index("total")))
    heads = [f"{checkout}, {kind}" for checkout in found for kind in ("s", "processor s")]
    if len(found) > 1:
        heads += ["ratio", "ratio of processor s"]
    lines = [f"| phase | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in names:
        cells = [phases.get(name, (0.0, 0.0)) for phases in found.values()]
        told = [f"{seconds:.1f}" for cell in cells for seconds in cell]
        if len(found) > 1:
            told += [f"{b / a:.2f}" if a else "" for a, b in zip(*cells, strict=True)]
        lines.append(f"| {name} | {' | '.join(told)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--config", nargs="+", default=["bundles/aeflow/train.json"])
    parser.add_argument("--dataset_dir", type=Path, help="the phantoms without it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tracking_uri", default="none")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--against", type=Path, help="another checkout, which runs in turn")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options, further = parser.parse_known_args(arguments)
    command = ["--config_file", str(options.config), "--device", options.device]
    command += ["--tracking_uri", options.tracking_uri, *further]
    if options.dataset_dir:
        command += ["--dataset_dir", str(options.dataset_dir.resolve())]
    checkouts = {"this": HERE}
    if options.against:
        checkouts = {"before": options.against.resolve(), **checkouts}
    rounds: dict[str, list[Phases]] = {name: [] for name in checkouts}
    for _ in range(options.rounds):
        for name, checkout in checkouts.items():
            rounds[name].append(measure(checkout, command))
    found = {name: medians(some) for name, some in rounds.items()}
    print("\n".join(table(found)))
    if options.output:
        write_json(options.output, {"command": command, "phases": found, "rounds": rounds})


if __name__ == "__main__":
    main()

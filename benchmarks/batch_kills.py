"""Kills a batch of scans again and again, and compares what it ends with.

    python -m benchmarks.batch_kills --kills 10 --input <scans> --ckpt_dir <model> --output <folder>

The batch is scored once without interruption, then once more with SIGKILLs at random moments, each
time after some more scans are done; each time the same command goes on. Below the table stands
whether every scan is listed once with equal scores, and whether all maps are equal.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.kills import POLL, ROOT, start
from transforms.readers import read_image

MAPS = "maps/*_anomaly.nii.gz"


def killed(command: Sequence[str], log: Path, folder: Path, more: int, delay: float) -> int | None:
    """Runs a batch and kills it after some more maps, and seconds; None if it ended first.

    Returns:
        How many maps there were when it was killed.

    Raises:
        RuntimeError: when it fails by itself.
    """
    process, due = start(command, log), None
    known = len(list(folder.glob(MAPS)))
    while process.poll() is None:
        if due is None and len(list(folder.glob(MAPS))) >= known + more:
            due = time.monotonic() + delay
        if due is not None and time.monotonic() >= due:
            process.kill()
            process.wait()
            return len(list(folder.glob(MAPS)))
        time.sleep(POLL)
    if process.returncode:
        raise RuntimeError(f"the batch failed; its log is {log}.")
    return None


def finished(command: Sequence[str], log: Path) -> None:
    """Runs a batch to its end.

    Raises:
        RuntimeError: when it fails.
    """
    if start(command, log).wait():
        raise RuntimeError(f"the batch failed; its log is {log}.")


def scores(folder: Path) -> Mapping[tuple[str, str, str], str]:
    """The scores of a batch by case, level and slice.

    Raises:
        ValueError: if one is listed twice.
    """
    with (folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["case"], row["level"], row["slice"]): row["score"] for row in rows}
    if len(found) != len(rows):
        raise ValueError(f"{folder / 'scores.csv'}: {len(rows) - len(found)} rows are there twice.")
    return found


def equal_maps(first: Path, second: Path) -> bool:
    """Whether two batches wrote the same maps: names, values and affines."""
    names = [sorted(path.name for path in folder.glob(MAPS)) for folder in (first, second)]
    pairs = ([read_image(f / "maps" / name) for f in (first, second)] for name in names[0])
    return names[0] == names[1] and all(
        torch.equal(one, two) and torch.equal(one.affine, two.affine) for one, two in pairs
    )


def _command(folder: Path, options: argparse.Namespace) -> list[str]:
    config = ROOT / "bundles" / "aeflow" / "inference.json"
    run = [sys.executable, "-m", "monai.bundle", "run", "inferring", "--config_file", str(config)]
    given = ["--input", str(options.input), "--ckpt_dir", str(options.ckpt_dir)]
    return [*run, *given, "--output_dir", str(folder)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    for place in ("--input", "--ckpt_dir", "--output"):
        parser.add_argument(place, type=lambda name: Path(name).resolve(), required=True)
    options = parser.parse_args(arguments)
    source = random.Random(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    straight, again = options.output / "straight", options.output / "killed"
    begun = time.monotonic()
    finished(_command(straight, options), options.output / "straight.log")
    count = len(list(straight.glob(MAPS)))
    each = (time.monotonic() - begun) / count
    print("| kill | after maps |\n|---|---|")
    for number in range(options.kills):
        more = source.randint(0, 2 * (count - 1) // (3 * options.kills))
        log = options.output / f"kill{number + 1}.log"
        done = killed(_command(again, options), log, again, more, source.uniform(0.0, each))
        if done is None:
            break
        print(f"| {number + 1} | {done} of {count} |", flush=True)
    finished(_command(again, options), options.output / "last.log")
    once = scores(straight) == scores(again)
    print(f"\nEach scan once, with equal scores: {'yes' if once else 'NO'}.")
    print(f"Equal maps: {'yes' if equal_maps(straight, again) else 'NO'}.")


if __name__ == "__main__":
    main()

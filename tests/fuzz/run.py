"""Tries cases in a process that may die."""

import argparse
import multiprocessing
import resource
import tempfile
from collections import Counter, defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.fuzz import images, lines, models
from tests.fuzz.images import MOST_SECONDS

Case = tuple[str, str, str, int]
ROOMS: dict[str, Any] = {"images": images, "models": models, "lines": lines}

USUAL = ("refused", "accepted", lines.MONAIS)


def work(cases: list[Case], told: Connection) -> None:
    """Tries cases and tells what each comes to."""
    with tempfile.TemporaryDirectory() as folder:
        for room, *case in cases:
            told.send(ROOMS[room].check(*case, Path(folder)))
    told.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    told.close()


def outcomes(cases: list[Case]) -> tuple[list[str], int]:
    """What each case came to, and the most memory, in kB, that a process took."""
    context, found, memory = multiprocessing.get_context("spawn"), [], 0
    while len(found) < len(cases):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(cases[len(found) :], there))
        process.start()
        there.close()
        try:
            while here.poll(60 + 2 * MOST_SECONDS):
                said = here.recv()
                if isinstance(said, int):
                    memory = max(memory, said)
                    break
                found.append(said)
            else:
                process.kill()
                found.append("hangs")
        except EOFError:
            process.join()
            found.append(f"ends the process ({process.exitcode})")
        process.join()
    return found, memory


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--of", choices=ROOMS, default="images")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    options = parser.parse_args()
    kinds = [(options.of, *kind) for kind in ROOMS[options.of].kinds()]
    times = max(1, options.cases // len(kinds))
    numbers = range(options.first, options.first + times)
    cases = [(*kind, number) for kind in kinds for number in numbers]
    found, memory = outcomes(cases)
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for (_, name, *rest), said in zip(cases, found, strict=True):
        usual = said in USUAL
        row = name if options.of == "images" else rest[0]
        table[row][said if usual else "wrong"] += 1
        if not usual:
            print(name, *rest, said)
    for row, counts in table.items():
        print(
            f"{row:30}",
            "  ".join(f"{kind} {counts[kind]:5}" for kind in (*USUAL, "wrong") if counts[kind]),
        )
    wrong = sum(counts["wrong"] for counts in table.values())
    print(f"{len(cases)} cases, {wrong} wrong, at most {memory / 1024:.0f} MiB of memory")
    return 1 if wrong else 0

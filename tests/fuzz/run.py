"""Reads damaged files in a process that may die."""

import argparse
import multiprocessing
import resource
import tempfile
from collections import Counter, defaultdict
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz.cases import MOST_SECONDS, damaged, outcome, seeds
from tests.fuzz.mutations import MUTATIONS

Case = tuple[str, str, int]


def work(cases: list[Case], told: Connection) -> None:
    """Reads cases and tells of each before and after."""
    with tempfile.TemporaryDirectory() as folder:
        for name, mutation, number in cases:
            path = Path(folder) / name
            path.write_bytes(damaged(name, mutation, number))
            told.send(outcome(path))
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
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    options = parser.parse_args()
    kinds = [(name, mutation) for name in seeds() for mutation in MUTATIONS]
    times = max(1, options.cases // len(kinds))
    numbers = range(options.first, options.first + times)
    cases = [(*kind, number) for kind in kinds for number in numbers]
    found, memory = outcomes(cases)
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for (name, *rest), said in zip(cases, found, strict=True):
        usual = said in ("read", "refused")
        table[name][said if usual else "wrong"] += 1
        if not usual:
            print(name, *rest, said)
    for name, counts in table.items():
        print(
            f"{name:16}",
            "  ".join(f"{kind} {counts[kind]:5}" for kind in ("refused", "read", "wrong")),
        )
    wrong = sum(counts["wrong"] for counts in table.values())
    print(f"{len(cases)} cases, {wrong} wrong, at most {memory / 1024:.0f} MiB of memory")
    return 1 if wrong else 0

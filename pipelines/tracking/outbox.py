"""What waits for the tracking server: kept in order, sent when it answers, on disk until then.

What a run could not send by its end is sent later by

    python -m pipelines.tracking.outbox --send output/untracked --tracking_uri http://localhost:5000
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.common import replacing
from pipelines.tracking.address import URI_VARIABLE, masked, resolve_uri
from pipelines.tracking.errors import Trouble, describe, diagnose
from pipelines.tracking.link import Record, RunFacts, RunLink, next_batch
from transforms.errors import InputError

logger = logging.getLogger(__name__)

UNTRACKED = "untracked"
"""Folder, in a run's output folder, of what could not be sent."""

FIRST_PAUSE = 5.0
LONGEST_PAUSE = 60.0
"""Seconds between two attempts at a server that is away; each pause is twice the last."""

LAST_PATIENCE = 30.0
"""Seconds for which the end of a run waits for a server that is away."""


class Outbox:
    """Records on their way to the server; telling it of them never stops a training.

    Args:
        link: the way to the run.
        folder: the run's output folder; what waits is kept in its folder `UNTRACKED`.
        clock: seconds that pass.
        wait: waits for seconds.
    """

    def __init__(
        self,
        link: RunLink,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.link = link
        self.file = folder / UNTRACKED / f"{link.run.name}.jsonl"
        self.clock = clock
        self.wait = wait
        self.waiting: deque[Record] = deque()
        self.aside: list[Record] = []
        self._away = False
        self._pause = FIRST_PAUSE
        self._next_attempt = 0.0
        self._told: set[str] = set()

    @property
    def unsent(self) -> list[Record]:
        """What the server has not taken."""
        return [*self.aside, *self.waiting]

    @property
    def command(self) -> str:
        """The command that sends later what is kept on disk."""
        return (
            f"python -m pipelines.tracking.outbox --send {self.file.parent} "
            f"--tracking_uri {masked(self.link.uri)}"
        )

    def take_up(self) -> None:
        """Takes what an earlier process of this run has kept on disk."""
        if self.file.is_file():
            self.waiting.extend(read_untracked(self.file)[1])

    def add(self, record: Record) -> None:
        """Takes a record and sends what waits, if the server was not away a moment ago."""
        self.waiting.append(record)
        if not self._away or self.clock() >= self._next_attempt:
            self.deliver()

    def deliver(self, insist: bool = False) -> bool:
        """Sends what waits, in order.

        Args:
            insist: whether a record that a present server cannot take is passed over.

        Returns:
            Whether nothing waits any more.
        """
        try:
            self.link.open()
            while self.waiting:
                self._send(next_batch(self.waiting), insist)
        except Exception as error:  # MLflow and its stores raise anything; training goes on
            self.lose(error)
            return False
        self._recover()
        return True

    def deliver_last(self, patience: float = LAST_PATIENCE) -> bool:
        """Sends what waits, for the last time, and keeps on disk what cannot be sent.

        Args:
            patience: seconds to wait for a server that is away.

        Returns:
            Whether everything was sent.
        """
        deadline, pause = self.clock() + patience, 1.0
        while not self.deliver(insist=True) and self.clock() + pause <= deadline:
            self.wait(pause)
            pause *= 2
        if self.unsent:
            self.keep()
            logger.warning(
                "Tracking: %d record(s) of the run %s could not be sent and are kept in %s. Send "
                "them later with: %s",
                len(self.unsent),
                self.link.run.name,
                self.file,
                self.command,
            )
        return not self.unsent

    def lose(self, error: Exception) -> None:
        """Notes that the server is away, and says so once."""
        if not self._away:
            logger.warning(
                "Tracking: %s is not available: %s. The run goes on; what is to be tracked waits "
                "and is sent when the server answers again.",
                masked(self.link.uri),
                describe(error),
            )
            self._away, self._pause = True, FIRST_PAUSE
        self._next_attempt = self.clock() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self.keep()

    def keep(self) -> None:
        """Writes what was not sent, so that it outlives the process."""
        write_untracked(self.file, self.link.run, self.unsent)

    def _recover(self) -> None:
        if self._away:
            sent = "all is sent" if not self.aside else "it took what it takes"
            logger.info("Tracking: %s answers again; %s.", masked(self.link.uri), sent)
            self._away = False
        if not self.aside:
            discard(self.file)

    def _send(self, batch: list[Record], insist: bool) -> None:
        """Sends a batch; it waits no more then, even where the server will never take it."""
        try:
            self.link.send(batch)
        except Exception as error:  # of any store; it decides whether to wait or to pass over
            passing = diagnose(error) is not Trouble.REJECTED
            if passing and not (insist and self.link.answers()):
                raise
            if len(batch) > 1:  # the fault may lie in one of them
                for record in batch:
                    self._send([record], insist)
                return
            self.aside += batch
            self._tell(batch[0], error)
        for _ in batch:
            self.waiting.popleft()

    def _tell(self, record: Record, error: Exception) -> None:
        if record.kind not in self._told:
            self._told.add(record.kind)
            logger.warning(
                "Tracking: %s does not take a record (%s): %s. It is kept; further ones of its "
                "kind are not told.",
                masked(self.link.uri),
                record.kind,
                describe(error),
            )


def write_untracked(file: Path, run: RunFacts, records: list[Record]) -> None:
    """Writes a run and its unsent records as lines of JSON, atomically."""
    base = file.parent.parent.resolve()
    facts = {name: value for name, value in asdict(run).items() if name != "attempted"}
    lines = [{"kind": "run", **facts}]
    lines += [{"kind": one.kind, **_to_json(one.content, base)} for one in records]
    with replacing(file) as temporary:
        temporary.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def read_untracked(file: Path) -> tuple[RunFacts, list[Record]]:
    """Reads what `write_untracked` wrote.

    Raises:
        InputError: for any other file.
    """
    base = file.parent.parent.resolve()
    try:
        first, *rest = [json.loads(line) for line in file.read_text().splitlines()]
        if first.pop("kind") != "run":
            raise ValueError("its first line is not about a run")
        records = [Record(line.pop("kind"), _from_json(line, base)) for line in rest]
        return RunFacts(**first, attempted=True), records
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(
            f"--send: {file} was not written by AE-Flow's tracking, or is damaged ({error})."
        ) from error


def discard(file: Path) -> None:
    """Removes a file of unsent records, and its folder with the last one."""
    file.unlink(missing_ok=True)
    if file.parent.is_dir() and not any(file.parent.iterdir()):
        file.parent.rmdir()


def send_untracked(folder: Path, uri: str) -> int:
    """Sends the unsent records of all runs in a folder.

    Args:
        folder: the folder `UNTRACKED` of an output folder, or one file of it.
        uri: where to.

    Returns:
        How many records were sent. Files whose records were all sent are removed.

    Raises:
        InputError: when there is nothing to send, or not everything could be sent.
    """
    files = [folder] if folder.is_file() else sorted(folder.glob("*.jsonl"))
    if not files:
        raise InputError(f"--send: {folder} holds no unsent records (files *.jsonl).")
    sent = left = 0
    for file in files:
        run, records = read_untracked(file)
        outbox = Outbox(RunLink(uri, run), file.parent.parent)
        outbox.file = file
        outbox.waiting.extend(records)
        if outbox.deliver(insist=True) and outbox.link.running:
            # The process was killed before it could tell the end.
            outbox.add(Record("end", {"status": "KILLED", "time": _last_time(run, records)}))
        outbox.link.close()
        if outbox.unsent:
            outbox.keep()
        left += len(outbox.unsent)
        sent += max(0, len(records) - len(outbox.unsent))
    if left:
        raise InputError(f"--send: {sent} record(s) sent, {left} not; they stay in {folder}.")
    return sent


def main(arguments: Sequence[str] | None = None) -> None:
    """Sends what a run could not send, once the server is there again."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.tracking.outbox",
        description="Sends to an MLflow server what a run kept while the server was away.",
    )
    parser.add_argument("--send", type=Path, required=True, help="the run's folder 'untracked'")
    parser.add_argument("--tracking_uri", help=f"the server; by default {URI_VARIABLE}")
    options = parser.parse_args(arguments)
    try:
        uri = options.tracking_uri or os.environ.get(URI_VARIABLE)
        wanted = resolve_uri(uri, options.send) if uri else None
        if wanted is None:
            raise InputError(f"--tracking_uri: name the server, here or in {URI_VARIABLE}.")
        sent = send_untracked(options.send, wanted)
    except InputError as error:
        sys.exit(f"Error: {error}")
    sys.stdout.write(f"{sent} record(s) sent to {masked(wanted)}.\n")


def _last_time(run: RunFacts, records: list[Record]) -> int:
    return max([run.started, *(int(one.content.get("time", 0)) for one in records)])


def _to_json(content: dict[str, Any], base: Path) -> dict[str, Any]:
    """Values that JSON can hold; paths relative to the output folder, which may be moved."""
    plain = dict(content)
    if "path" in plain and Path(plain["path"]).is_relative_to(base):
        plain["path"] = os.path.relpath(plain["path"], base)
    if isinstance(plain.get("values"), dict):
        plain["values"] = {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in plain["values"].items()
        }
    return plain


def _from_json(content: dict[str, Any], base: Path) -> dict[str, Any]:
    if "path" in content:
        content["path"] = str(base / content["path"])
    return content


if __name__ == "__main__":
    main()

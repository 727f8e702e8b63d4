"""SIGTERM and SIGINT end a run in order."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from pipelines.common.distributed import is_main, processes

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Leaves the process with one line, and its exit code, when a signal asks for it.

    Attributes:
        received: the signal that came, if any.
        advice: how to go on; the end of the line.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.advice = "The same command goes on where it stopped."
        self._deferred = False
        self._first: Callable[[], None] = _nothing
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def listen(self, first: Callable[[], None]) -> None:
        """Listens from now on, in the main thread alone; `first` is called with each signal."""
        if threading.current_thread() is threading.main_thread():
            self._first = first
            self._before = {number: signal.signal(number, self._take) for number in SIGNALS}

    def ignore(self) -> None:
        """Leaves the signals to whoever had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Lets a block look at `received` and end by itself; a second signal does not wait.

        Of several processes each may be told twice, by a scheduler and by torchrun: they wait.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.received is not None:
            self._leave(self.received)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker that was forked; its parent looks after it
            return
        waited = self.received is not None
        self.received = signal.Signals(number)
        self._first()
        if not self._deferred or (waited and processes() == 1):
            self._leave(self.received)

    def _leave(self, received: signal.Signals) -> NoReturn:
        self.ignore()
        for handler in logging.root.handlers:  # engines would tell the end as an error
            handler.addFilter(lambda record: not record.name.startswith("ignite."))
        if is_main():
            sys.stderr.write(f"\nStopped by {received.name}. {self.advice}\n")
        raise SystemExit(128 + received)


def _nothing() -> None:
    """Does nothing."""

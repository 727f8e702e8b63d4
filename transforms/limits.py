"""How much memory and time one image may take.

They are kept in the environment, so that they hold in worker processes too, however started.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from transforms.errors import InputError

MAX_GIGABYTES = 8.0
"""GiB that one image may take, unless ``set_limits`` says otherwise."""

MAX_SECONDS = 300.0
"""Seconds that reading one image may take, likewise."""

_GIGABYTE = 1 << 30
_GIGABYTES_VARIABLE = "AEFLOW_MAX_GIGABYTES"
_SECONDS_VARIABLE = "AEFLOW_MAX_SECONDS"

T = TypeVar("T")
_here = threading.local()


def set_limits(gigabytes: float = MAX_GIGABYTES, seconds: float = MAX_SECONDS) -> None:
    """Set what one image may take from now on, as ``--max_gigabytes`` and ``--max_seconds`` do.

    Args:
        gigabytes: GiB of memory.
        seconds: of reading.
    """
    os.environ[_GIGABYTES_VARIABLE] = str(gigabytes)
    os.environ[_SECONDS_VARIABLE] = str(seconds)


def max_gigabytes() -> float:
    """GiB that one image may take."""
    return float(os.environ.get(_GIGABYTES_VARIABLE, MAX_GIGABYTES))


def require_memory(path: Path | str, size: int) -> None:
    """Refuse an image that takes too much memory.

    Args:
        path: the file, for messages.
        size: bytes of its values, once inflated and read.

    Raises:
        InputError: naming the option that allows more.
    """
    most = max_gigabytes()
    if size > most * _GIGABYTE:
        raise InputError(
            f"{path}: expected an image of at most {most:g} GiB in memory, found one of "
            f"{size / _GIGABYTE:.3g} GiB or more. If its size is right, allow it with "
            "--max_gigabytes (in Python set_limits of transforms.limits)."
        )


def in_time(path: Path | str, read: Callable[[], T], give_up: Callable[[], None]) -> T:
    """Read in a thread that is left alone once it has taken too long.

    Args:
        path: the file, for messages.
        read: reads it.
        give_up: ends what ``read`` may be waiting for.

    Raises:
        InputError: if it takes longer than it may, naming the option that allows more.
        Exception: what ``read`` raises.
    """
    if getattr(_here, "process", None) != os.getpid():  # a fork has no threads
        _here.reader, _here.process = _Reader(), os.getpid()
    outcome: Future[T] = _here.reader.submit(read)
    seconds = float(os.environ.get(_SECONDS_VARIABLE, MAX_SECONDS))
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():  # of the reader itself
            raise
        _here.process = None
        give_up()
        raise InputError(
            f"{path}: expected an image that is read within {seconds:g} s, and gave up. If the "
            "disk is slow or the file that large, allow more with --max_seconds (in Python "
            "set_limits of transforms.limits)."
        ) from None


class _Reader:
    """A thread that does not keep the program from ending; it ends with the thread that asks."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=_work, args=(self._queue,), daemon=True).start()

    def __del__(self) -> None:
        self._queue.put(None)

    def submit(self, read: Callable[[], T]) -> Future[T]:
        outcome: Future[T] = Future()

        def work() -> None:
            try:
                outcome.set_result(read())
            except BaseException as error:  # raised where it was asked for
                outcome.set_exception(error)

        self._queue.put(work)
        return outcome


def _work(queue: SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := queue.get()) is not None:
        job()
        del job  # with what it read

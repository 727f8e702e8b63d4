"""SimpleITK's decoders in a process of their own, whose death costs one file and not the batch."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from transforms.errors import InputError
from transforms.limits import max_gigabytes

_PROGRAM = Path(__file__).with_name("decoder_process.py")
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}

Array = np.ndarray[Any, Any]


def decode(
    path: Path, prepare: Callable[[Path], Path], image_io: str = "", compressed: bool = True
) -> Array:
    """Decode the values of a file that has been checked, in NumPy's order.

    Args:
        path: the user's file, for messages.
        prepare: names the file to decode, which it may write into the folder that it is given.
        image_io: SimpleITK's name of the format; empty tells it by the file.
        compressed: whether the values are; if not, they are safe to be read here.

    Raises:
        InputError: if the decoder dies.
        ValueError: if SimpleITK cannot decode the file.
    """
    # Values come through a file, which is much faster than a pipe.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        values = Path(folder) / "values.npy"
        file = str(prepare(Path(folder)))
        if not compressed:
            from transforms import decoder_process

            return decoder_process.decode(file, image_io)
        answer = _decoder().ask([file, image_io, str(values)])
        if answer is None:
            raise InputError(
                f"{path}: expected a readable image, but decoding it ended the decoder's process: "
                "the file is damaged, or needs more memory than there is or than --max_gigabytes "
                "allows. Copy or export it again."
            )
        if answer:
            raise ValueError(answer)
        found: Array = np.load(values)
        return found


def stop_decoder() -> None:
    """End this process's decoder with what it is busy with; the next file starts another."""
    decoder = _decoders.pop(os.getpid(), None)
    if decoder is not None:
        decoder.end()


class _Decoder:
    """A running decoder, which one thread at a time may ask."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", str(_PROGRAM), str(max_gigabytes())]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, env=os.environ | _ONE_THREAD, text=True
        )
        assert self.process.stdin and self.process.stdout
        self._asked, self._told = self.process.stdin, self.process.stdout
        self._lock = threading.Lock()

    def ask(self, request: list[str]) -> str | None:
        """What went wrong with a request, empty if nothing did; None if the decoder died of it."""
        with self._lock:
            try:
                print(json.dumps(request), file=self._asked, flush=True)
                answer = self._told.readline()
            except (OSError, ValueError):  # it was ended, or has been
                answer = ""
        if answer:
            return str(json.loads(answer))
        self.end()
        return None

    def end(self) -> None:
        """End the process, so that whoever waits for its answer gets none."""
        self.process.kill()
        self.process.wait()
        for pipe in (self._asked, self._told):
            with suppress(OSError, ValueError):
                pipe.close()


_decoders: dict[int, _Decoder] = {}  # by process: a fork has none
atexit.register(stop_decoder)


def _decoder() -> _Decoder:
    here = os.getpid()
    decoder = _decoders.get(here)
    if decoder is None or decoder.process.poll() is not None:
        decoder = _decoders[here] = _Decoder()
    return decoder

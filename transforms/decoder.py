"""SimpleITK's decoders in a process of their own, whose death costs one file and not the batch."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transforms.errors import InputError
from transforms.limits import max_gigabytes

_PROGRAM = Path(__file__).with_name("decoder_process.py")
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


@dataclass(frozen=True)
class Decoded:
    """What SimpleITK found in a file, in its own conventions.

    Attributes:
        values: in NumPy's order: the last axis of the file first, components last.
        vectors: whether there are several components.
        spacing: mm per voxel along each axis of the file.
        origin: mm towards the patient's left and back.
        direction: of each axis, row by row.
        space: the anatomical space that an NRRD names, else empty.
    """

    values: np.ndarray[Any, Any]
    vectors: bool
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    space: str


def decode(path: Path, file: Path, image_io: str = "") -> Decoded:
    """Decode a file that has been checked.

    Args:
        path: the user's file, for messages.
        file: what to decode.
        image_io: SimpleITK's name of the format; empty tells it by the file.

    Raises:
        InputError: if the decoder dies.
        ValueError: if SimpleITK cannot decode the file.
    """
    # Values come through a file that is mapped, much faster than through a pipe.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        values = Path(folder) / "values.npy"
        answer = _decoder().ask([str(file), image_io, str(values)])
        if answer is None:
            raise InputError(
                f"{path}: expected a readable image, but decoding it ended the decoder's process: "
                "the file is damaged, or needs more memory than there is or than --max_gigabytes "
                "allows. Copy or export it again."
            )
        if "error" in answer:
            raise ValueError(answer["error"])
        return Decoded(np.load(values, mmap_mode="c"), **answer)


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
        self._lock = threading.Lock()

    def ask(self, request: list[str]) -> dict[str, Any] | None:
        """The answer to a request; None if the decoder dies of it."""
        assert self.process.stdin and self.process.stdout
        with self._lock:
            try:
                print(json.dumps(request), file=self.process.stdin, flush=True)
                answer = self.process.stdout.readline()
            except OSError:
                answer = ""
        if answer:
            found: dict[str, Any] = json.loads(answer)
            return found
        self.end()
        return None

    def end(self) -> None:
        """End the process, so that whoever waits for its answer gets none."""
        self.process.kill()
        self.process.communicate()


_decoders: dict[int, _Decoder] = {}  # by process: a fork has none
atexit.register(stop_decoder)


def _decoder() -> _Decoder:
    here = os.getpid()
    decoder = _decoders.get(here)
    if decoder is None or decoder.process.poll() is not None:
        decoder = _decoders[here] = _Decoder()
    return decoder

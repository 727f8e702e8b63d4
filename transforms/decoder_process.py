"""Decodes files by SimpleITK; ``transforms.decoder`` runs it: a request and its answer a line."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any

import numpy as np

sitk: Any = importlib.import_module("SimpleITK")  # without types

_OWN_GIGABYTES = 4


def decode(file: str, image_io: str = "") -> np.ndarray[Any, Any]:
    """The values of a file, in NumPy's order."""
    values: np.ndarray[Any, Any] = sitk.GetArrayFromImage(sitk.ReadImage(file, imageIO=image_io))
    return values


def bound_memory(gigabytes: float) -> None:
    """Let the process take no more than an image may, beside what it takes itself."""
    try:
        import resource
    except ImportError:  # Windows
        return
    most = int((gigabytes + _OWN_GIGABYTES) * 2**30)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program that asks ends, and with it this
    bound_memory(float(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what decoders print is no answer
    for line in sys.stdin:
        wrong = ""
        try:
            *request, values = json.loads(line)
            np.save(values, decode(*request))
        except Exception as error:
            wrong = str(error) or type(error).__name__
        print(json.dumps(wrong), file=answers, flush=True)


if __name__ == "__main__":
    main()

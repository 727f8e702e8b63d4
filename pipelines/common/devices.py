"""Where to compute, and how."""

from __future__ import annotations

import importlib.util
import shutil

import ignite.distributed as idist
import torch

from pipelines.common.distributed import processes


def choose_device(device: str = "auto") -> torch.device:
    """The device of this name; ``auto`` is the GPU, where there is one, or this process's own."""
    if device != "cpu" and processes() > 1:
        return idist.device()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def compiling_pays(wanted: str, device: torch.device, images: int, repaid: int) -> bool:
    """Whether to compile what images go through.

    Args:
        wanted: ``always``, ``never``, or ``auto``: on a GPU, where there are compilers, for a run
            that is long enough.
        device: where to compute.
        images: that will go through it.
        repaid: images over which compiling is repaid.
    """
    if wanted != "auto":
        return wanted == "always"
    able = importlib.util.find_spec("triton") and (shutil.which("cc") or shutil.which("gcc"))
    return device.type == "cuda" and images >= repaid and bool(able)

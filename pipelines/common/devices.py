"""Where to compute."""

from __future__ import annotations

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

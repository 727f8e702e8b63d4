"""Where to compute, and with how many threads beside."""

from __future__ import annotations

import os

import torch


def choose_device(device: str = "auto") -> torch.device:
    """The device of this name; ``auto`` is the GPU, where there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def spare_threads() -> int:
    """Threads that read, and as many that write, beside the scoring: 1 on a laptop, 4 at most."""
    return min(4, max(1, (os.cpu_count() or 1) // 4))

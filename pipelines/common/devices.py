"""Where to compute."""

from __future__ import annotations

import torch


def choose_device(device: str = "auto") -> torch.device:
    """The device of this name; ``auto`` is the GPU, where there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)

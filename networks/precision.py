"""In which precision a detector runs."""

from __future__ import annotations

import torch


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether autocast to bfloat16 pays there; log-determinants stay in 32 bits all the same."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

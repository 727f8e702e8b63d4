"""In which precision a detector scores."""

from __future__ import annotations

import torch


def scoring_type(device: torch.device) -> torch.dtype:
    """float16 on a GPU, else float32; log-determinants and likelihoods stay in 32 bits.

    Scores differ by an eighth of what bfloat16, as fast, would change. Its range is smaller:
    where an image leaves it, scores are not finite, and it is scored in 32 bits.
    """
    return torch.float16 if device.type == "cuda" else torch.float32

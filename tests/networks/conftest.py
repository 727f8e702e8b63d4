from collections.abc import Callable

import pytest
import torch
from torch import nn

Randomise = Callable[[nn.Module, int], nn.Module]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def randomise() -> Randomise:
    """Fill every parameter with random values: zero-initialised layers would hide mistakes."""

    def fill(module: nn.Module, seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(0.7 * noise / fan_in**0.5)
        return module

    return fill

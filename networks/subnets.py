"""Sub-networks of the affine couplings: `conv` and `resnet` of AE-FLOW (ICLR 2023, section 3.2).

Their last convolution starts at zero, so that an untrained flow is a permutation of its
(normalised) input and its likelihood is finite from the first step on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from monai.networks.blocks.convolutions import ResidualUnit
from monai.networks.layers.factories import Conv
from torch import nn

SubnetFactory = Callable[[int, int], nn.Module]
"""Builds a sub-network from (input channels, output channels); it must keep the spatial shape."""


class SubnetBuilder(Protocol):
    """What an entry of `SUBNETS` is called with."""

    def __call__(
        self, in_channels: int, out_channels: int, hidden: int, spatial_dims: int = 2
    ) -> nn.Module:
        """Build a sub-network."""


def conv_subnet(
    in_channels: int, out_channels: int, hidden: int, spatial_dims: int = 2
) -> nn.Sequential:
    """Build 3x3 convolution, ReLU, 1x1 convolution: the paper's choice for X-ray images.

    Args:
        in_channels: channels of the passive half.
        out_channels: channels returned, scale and shift together.
        hidden: channels in between.
        spatial_dims: 1, 2 or 3.
    """
    return nn.Sequential(
        Conv[Conv.CONV, spatial_dims](in_channels, hidden, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        _zero_convolution(hidden, out_channels, spatial_dims),
    )


def resnet_subnet(
    in_channels: int, out_channels: int, hidden: int, spatial_dims: int = 2
) -> nn.Sequential:
    """Build a residual block of two 3x3 convolutions, then a 1x1 convolution.

    Args:
        in_channels: channels of the passive half.
        out_channels: channels returned, scale and shift together.
        hidden: channels in between.
        spatial_dims: 1, 2 or 3.
    """
    return nn.Sequential(
        ResidualUnit(
            spatial_dims, in_channels, hidden, kernel_size=3, subunits=2, act="relu", norm=None
        ),
        _zero_convolution(hidden, out_channels, spatial_dims),
    )


def _zero_convolution(in_channels: int, out_channels: int, spatial_dims: int) -> nn.Module:
    """Build a 1x1 convolution that returns 0."""
    convolution: nn.Module = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, kernel_size=1)
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


SUBNETS: Mapping[str, SubnetBuilder] = MappingProxyType(
    {"conv": conv_subnet, "resnet": resnet_subnet}
)
"""The sub-networks to choose from."""

"""The decoder g of AE-FLOW: from the flow's latent back to the image (ICLR 2023, section 3.3)."""

from __future__ import annotations

import math

from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from .errors import ArgumentError


class Decoder(nn.Module):
    """Transposed convolutions, each of twice the resolution and half the channels.

    There is no normalisation: BatchNorm would tie images of a batch to each other, GroupNorm
    distant places of an image, and a residual should show where the anomaly is. The last layer is
    linear, so that it can reach any target.

    Args:
        in_channels: channels of the latent.
        out_channels: channels of the image.
        stride: stride of the latent, a power of 2 of at least 2.
        width: channels at full resolution; 2, 4, 8, ... times as many before each upsampling.
        spatial_dims: 1, 2 or 3.

    Raises:
        ArgumentError: if the stride is not a power of 2 or the width is below 1.

    Example:
        >>> import torch
        >>> Decoder(in_channels=6, out_channels=1, stride=4, width=2)(torch.zeros(1, 6, 3, 5)).shape
        torch.Size([1, 1, 12, 20])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 16,
        width: int = 16,
        spatial_dims: int = 2,
    ) -> None:
        """Build the decoder; see the class for the arguments."""
        super().__init__()
        if stride < 2 or stride & (stride - 1):
            raise ArgumentError(f"stride: expected 2, 4, 8, ..., got {stride}; give the latent's.")
        if width < 1:
            raise ArgumentError(f"width: expected at least 1, got {width}; 16 is usual.")
        doublings = stride.bit_length() - 1
        widths = [in_channels, *(width * 2**k for k in reversed(range(doublings)))]
        self.upsample = nn.Sequential(
            *(_double(widths[k], widths[k + 1], spatial_dims) for k in range(doublings))
        )
        convolution = Conv[Conv.CONV, spatial_dims]
        self.project = convolution(width, out_channels, kernel_size=3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """Map the latent `(B, C, *s)` to an image `(B, out, *S)`, each side S = s * stride."""
        image: Tensor = self.project(self.upsample(latent))
        return image


def _double(in_channels: int, out_channels: int, spatial_dims: int) -> Convolution:
    """Build a transposed convolution of stride 2 with ReLU that keeps the signal's variance."""
    block = Convolution(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        strides=2,
        kernel_size=4,
        padding=1,
        output_padding=0,
        is_transposed=True,
        act="relu",
        norm=None,
    )
    # Along each axis an output sees 2 of the 4 taps; PyTorch's own initialisation counts all of
    # them and the wrong channels, and shrinks the signal layer by layer.
    seen = 2**spatial_dims * in_channels
    nn.init.normal_(block.get_parameter("conv.weight"), std=math.sqrt(2.0 / seen))
    nn.init.zeros_(block.get_parameter("conv.bias"))
    return block

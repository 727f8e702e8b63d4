"""A frozen residual network in its fastest form: BatchNorm folded, convolutions that add and clip.

BatchNorm of a frozen network is an affine map per channel, which the convolution before it can do
(`torch.nn.utils.fusion`); the shortcut's bias goes into the last convolution of its block. In 16
bits on a GPU, cuDNN adds bias and shortcut and applies ReLU within the convolution.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

ALIGNED = 8
"""Channels in 16 bits that make up the 16 bytes which tensor cores read at once."""


class FoldedConv(nn.Module):
    """A convolution with its BatchNorm, followed by ReLU.

    Args:
        conv: the convolution; it is copied.
        norm: the BatchNorm after it.
    """

    def __init__(self, conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        fused = fuse_conv_bn_eval(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm))
        self.conv: Any = fused.requires_grad_(False)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """ReLU of the convolution of `x`, plus `added` of the shape of the result."""
        conv = self.conv
        if not (x.is_cuda and x.dtype.itemsize == 2 and torch.backends.cudnn.is_available()):
            y: Tensor = conv(x)
            return (y if added is None else y.add_(added)).relu_()
        how = (conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        if added is None:
            return torch.cudnn_convolution_relu(x, conv.weight, *how)
        return torch.cudnn_convolution_add_relu(x, conv.weight, added, 1.0, *how)


class FoldedStem(nn.Module):
    """The first convolution, 7 x 7 of stride 2, as one of 4 x 4 on the pixels of 2 x 2 squares.

    It then has enough channels for the fast kernels.

    Args:
        conv: the convolution; it is copied.
        norm: the BatchNorm after it.
    """

    def __init__(self, conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.folded = FoldedConv(conv, norm)
        own = self.folded.conv
        weight = F.pixel_unshuffle(F.pad(own.weight, (0, 1, 0, 1)), 2)
        self.idle = -weight.shape[1] % ALIGNED
        own.weight = nn.Parameter(F.pad(weight, (0, 0, 0, 0, 0, self.idle)), requires_grad=False)
        own.stride, own.padding = (1, 1), (0, 0)

    def forward(self, image: Tensor) -> Tensor:
        """Map `(B, C, H, W)`, H and W even, to `(B, 64, H / 2, W / 2)`."""
        squares = F.pixel_unshuffle(F.pad(image, (3, 3, 3, 3)), 2)
        padded = F.pad(squares, (0, 0, 0, 0, 0, self.idle))
        y: Tensor = self.folded(padded.contiguous(memory_format=torch.channels_last))
        return y


class FoldedBlock(nn.Module):
    """A residual block of MONAI's, of two or three convolutions.

    Args:
        block: a `ResNetBlock` or `ResNetBottleneck`; it is copied.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        numbers = [n for n in (1, 2, 3) if hasattr(block, f"conv{n}")]
        self.convs = nn.ModuleList(
            FoldedConv(getattr(block, f"conv{n}"), getattr(block, f"bn{n}")) for n in numbers
        )
        self.shortcut: nn.Module | None = None
        if isinstance(block.downsample, nn.Sequential):
            shortcut: Any = FoldedConv(*block.downsample).conv
            cast(FoldedConv, self.convs[-1]).conv.bias += shortcut.bias
            shortcut.bias = None
            self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to what the block gives."""
        kept = x if self.shortcut is None else self.shortcut(x)
        *first, last = self.convs
        for conv in first:
            x = conv(x)
        y: Tensor = last(x, kept)
        return y


class FoldedStages(nn.Module):
    """A copy of a residual network in evaluation mode, as fast as it can be.

    Args:
        backbone: `ResNetStages`; it stays as it is.
        dtype: of weights and features.
    """

    def __init__(self, backbone: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.stem = FoldedStem(backbone.conv1, backbone.bn1)
        self.pool = backbone.maxpool
        layers = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
        self.layers = nn.ModuleList(
            nn.Sequential(*(FoldedBlock(block) for block in layer))
            for layer in layers[: backbone.depth]
        )
        self.dtype = dtype
        self.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> list[Tensor]:
        """The features of every stage, finest first, channels-last; see `ResNetStages.stages`."""
        x, features = self.pool(self.stem(image.to(self.dtype))), []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features

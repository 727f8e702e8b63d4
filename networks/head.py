"""The detection head: where in the image the encoder's features look pasted-in.

Not part of AE-FLOW. Trained on synthetic anomalies in normal images, it gives the encoder features
worth a likelihood, and a map of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import ArgumentError
from .pooling import top_mean
from .spatial import mean_in_cells, size_of

INITIAL_LOGIT = -2.0
"""Logit of an untrained head: anomalies cover about a tenth of the positions."""


class HeadOutput(NamedTuple):
    """What pre-training needs of a network.

    Attributes:
        head: logits of an anomaly, `(B, 1, *s / 8)`.
    """

    head: Tensor


class DetectionHead(nn.Module):
    """Merges features of several strides into one logit per position of the finest.

    Each stride is projected by a 1x1 convolution, upsampled to the finest and summed; two 3x3
    convolutions with GroupNorm and a 1x1 convolution follow.

    Args:
        channels: channels of the features, finest stride first.
        width: channels within the head, a multiple of 8.
        spatial_dims: 1, 2 or 3.

    Raises:
        ArgumentError: if there are no features or the width is not a multiple of 8.
    """

    def __init__(self, channels: Sequence[int], width: int = 64, spatial_dims: int = 2) -> None:
        """Build the head; see the class for the arguments."""
        super().__init__()
        if not channels:
            raise ArgumentError(
                "channels: expected one entry per stride, got none; name the strides."
            )
        if width < 8 or width % 8:
            raise ArgumentError(f"width: expected a multiple of 8, got {width}; 64 is usual.")
        convolution = Conv[Conv.CONV, spatial_dims]
        self.lateral = nn.ModuleList(convolution(c, width, kernel_size=1) for c in channels)
        blocks = (*_convolve(width, spatial_dims), *_convolve(width, spatial_dims))
        self.merge = nn.Sequential(*blocks)
        self.classify = convolution(width, 1, kernel_size=1)
        nn.init.constant_(self.classify.bias, INITIAL_LOGIT)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits of an anomaly.

        Args:
            features: tensors `(B, channels[i], *s_i)`, finest first.

        Returns:
            Logits `(B, 1, *s_0)`.

        Raises:
            ArgumentError: if the number of features is not that of `channels`.
        """
        if len(features) != len(self.lateral):
            raise ArgumentError(
                f"features: expected {len(self.lateral)} tensors, got {len(features)}; "
                "give those of the strides that the head was built for."
            )
        size = features[0].shape[2:]
        merged = self.lateral[0](features[0])
        for lateral, feature in zip(list(self.lateral)[1:], features[1:], strict=True):
            # Unlike bilinear upsampling, this has a gradient that CUDA computes repeatably.
            merged = merged + F.interpolate(lateral(feature), size=size, mode="nearest")
        logits: Tensor = self.classify(self.merge(merged))
        return logits


def _convolve(width: int, spatial_dims: int) -> tuple[nn.Module, ...]:
    """Build a 3x3 convolution, GroupNorm (which does not mix images) and ReLU."""
    return (
        Conv[Conv.CONV, spatial_dims](width, width, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(8, width),
        nn.ReLU(inplace=True),
    )


def head_loss(output: HeadOutput, mask: Tensor | None, share: float) -> Tensor:
    """The cross-entropy of the logits with the masks' cover, a scalar.

    Of a labelled image without a mask, the pooled logits are to tell an anomaly.

    Args:
        output: of the head.
        mask: `(B, 1, *s)` in [0, 1]; NaN where it is only known that the image holds an anomaly.
        share: of the highest logits, which are pooled.

    Raises:
        ArgumentError: without masks.
    """
    if mask is None:
        raise ArgumentError("mask: pre-training needs the masks of the synthetic anomalies.")
    logits = output.head.float()
    cover = mean_in_cells(mask, size_of(logits))
    located = F.binary_cross_entropy_with_logits(logits, cover.nan_to_num(), reduction="none")
    pooled = top_mean(logits, share)
    whole = F.binary_cross_entropy_with_logits(pooled, torch.ones_like(pooled), reduction="none")
    unknown = cover.flatten(1).isnan().any(dim=1)
    return torch.where(unknown, whole, located.flatten(1).mean(dim=1)).mean()

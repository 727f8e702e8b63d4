"""What a detector needs beside the images, packed with them where only one tensor can pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from networks import Detector

CHANNELS = {"body": 1, "place": 3}
"""Channels that each takes when packed."""


def packed(images: Tensor, context: Mapping[str, Tensor], detector: Detector) -> Tensor:
    """Slices ``(K, C, H, W)`` with what the detector needs as further channels."""
    height, width = images.shape[-2:]
    further = [images]
    for name in detector.needs:
        value = context[name].to(images.dtype)
        if name == "place":
            plane = torch.empty(len(images), CHANNELS[name], height, width, dtype=images.dtype)
            plane[:, 0] = value[:, :1, None]
            plane[:, 1] = value[:, 1 : 1 + height, None]
            plane[:, 2] = value[:, None, 1 + height :]
            value = plane
        further.append(value)
    return torch.cat(further, dim=1)


def unpacked(tensor: Tensor, detector: Detector) -> tuple[Tensor, dict[str, Tensor]]:
    """Slices and context again; see `packed`."""
    sizes = [detector.in_channels, *(CHANNELS[name] for name in detector.needs)]
    images, *further = tensor.split(sizes, dim=1)
    context = dict(zip(detector.needs, further, strict=True))
    if "body" in context:
        context["body"] = context["body"] > 0.5
    if "place" in context:
        slices, rows, columns = context["place"].unbind(dim=1)
        context["place"] = torch.cat([slices[:, 0, :1], rows[:, :, 0], columns[:, 0]], dim=1)
    return images, context

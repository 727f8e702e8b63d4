"""What a detector needs beside the images, packed with them where only one tensor can pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from networks import Detector

CHANNELS = {"body": 1, "place": 3}
"""Channels that each takes when packed."""

SLICES_NDIM = 4
"""Axes of a batch of slices; a batch of patches has one more."""


def packed(images: Tensor, context: Mapping[str, Tensor], detector: Detector) -> Tensor:
    """Slices, patches or windows ``(B, C, *s)`` with the detector's needs as further channels."""
    further = [images]
    for name in detector.needs:
        value = context[name].to(images.dtype)
        if name == "place":
            volume = (1, *images.shape[2:])[-3:]
            slices, rows, columns = value.split(volume, dim=1)
            lines = (slices[:, :, None, None], rows[:, None, :, None], columns[:, None, None])
            planes = torch.stack([line.expand(-1, *volume) for line in lines], dim=1)
            value = planes.view(len(images), CHANNELS[name], *images.shape[2:])
        further.append(value)
    return torch.cat(further, dim=1)


def unpacked(tensor: Tensor, detector: Detector) -> tuple[Tensor, dict[str, Tensor]]:
    """Slices, or patches of volumes ``(B, C', D, h, w)``, and context again; see `packed`."""
    sizes = [detector.in_channels, *(CHANNELS[name] for name in detector.needs)]
    images, *further = tensor.split(sizes, dim=1)
    context = dict(zip(detector.needs, further, strict=True))
    if "body" in context:
        context["body"] = context["body"] > 0.5
    if "place" in context:
        planes = context["place"].unbind(dim=1)
        if images.ndim == SLICES_NDIM:
            planes = [plane[:, None] for plane in planes]
        slices, rows, columns = planes
        lines = (slices[:, :, 0, 0], rows[:, 0, :, 0], columns[:, 0, 0])
        context["place"] = torch.cat(lines, dim=1)
    return images, context


def filled(values: Tensor, multiple: int) -> Tensor:
    """Values ``(N, ...)`` filled up to a multiple with the last, for what is made for its size."""
    missing = -len(values) % multiple
    if not missing:
        return values
    return torch.cat([values, values[-1:].expand(missing, *values.shape[1:])])

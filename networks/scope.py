"""Whether an image is of the kind that a model was made for, told by the image alone.

Three groups of simple measures, each with a Gaussian of normal images: how light and dark lie in
it, how much there is of each fineness, and which values occur. What is strange by one of them far
beyond held-out normal images, mild changes and synthetic anomalies is of another modality, body
part, field of view, sharpness or scale. An image that would lie as normal images do if it were
turned, flipped or inverted is exactly that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from monai.networks.layers.factories import Pool
from torch import Tensor, nn

from .density import GaussianDensity
from .spatial import mean_in_cells, resized, size_of

SIDE = 12
"""Fields along each side of the image in which its lightness is measured."""

SIDES: Mapping[int, int] = {1: SIDE, 2: SIDE, 3: 5}
"""The same by the number of sides: a volume has about as many fields as an image."""

OCTAVES = 5
"""Finenesses, each half of the one before, in which contrast is measured."""

SHARES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
"""Quantiles of the values."""

PIXELS = 4096
"""Evenly spaced pixels of an image whose values are looked at."""

QUANTILE = 0.99
"""Of the distances of held-out images, which is their limit."""

BEYOND = {"arrangement": 1.65, "detail": 1.8, "levels": 2.3}
"""Times the limit from which an image is out of scope, per group of measures."""

BETTER = 1.3
"""Times that an image must lie nearer when it is turned, flipped or inverted to be named so."""

REASONS = {
    "arrangement": "what it shows lies otherwise (another body part, view or field of view)",
    "detail": "it is much sharper, noisier or smoother",
    "levels": "its values are distributed otherwise (another modality, unit or window)",
}
"""What a distance in each group of measures means."""

AT_ONCE = 64
"""Images that are measured at once."""

TURNED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "upside down": lambda image: image.flip(-2),
    "mirrored": lambda image: image.flip(-1),
    "turned by 180 degrees": lambda image: image.flip(-2, -1),
    "turned clockwise": lambda image: image.rot90(1, (-2, -1)),
    "turned counter-clockwise": lambda image: image.rot90(3, (-2, -1)),
    "inverted": lambda image: 1.0 - image,
}
"""What undoes each of these."""


class InScope(NamedTuple):
    """Where images lie.

    Attributes:
        beyond: distance over limit per group of measures, ``(B, 3)``, in the order of `REASONS`.
        better: times that each of `ways` brings an image nearer, ``(B, len(ways))``.
        ways: names among `TURNED`.
    """

    beyond: Tensor
    better: Tensor
    ways: tuple[str, ...]

    def of(self, where: slice) -> InScope:
        """That of some of the images."""
        return InScope(self.beyond[where], self.better[where], self.ways)

    def reason(self) -> str:
        """Why most of these images are out of scope; "" if they are not."""
        better, beyond = self.better.median(dim=0).values, self.beyond.median(dim=0).values
        undone = beyond[0] / better.max()
        if better.max() > BETTER and undone <= 1.0:
            return f"it seems {self.ways[int(better.argmax())]}"
        too_far = beyond / beyond.new_tensor([BEYOND[name] for name in REASONS])
        if too_far.max() > 1.0:
            return list(REASONS.values())[int(too_far.argmax())]
        return ""


class Scope(nn.Module):
    """The Gaussians of normal images and the limits.

    Args:
        channels: of the images.
        spatial_dims: 1, 2 or 3; only images, of 2, are turned.
    """

    limits: Tensor

    def __init__(self, channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.ways = tuple(TURNED) if spatial_dims == 2 else ("inverted",)
        sizes = (SIDES[spatial_dims] ** spatial_dims * channels, OCTAVES, len(SHARES) + 3)
        self.gaussians = nn.ModuleDict(
            {n: GaussianDensity(size) for n, size in zip(REASONS, sizes, strict=True)}
        )
        self.register_buffer("limits", torch.zeros(len(REASONS)))

    def fit(self, normal: Tensor, plain: Tensor, changed: Tensor, held_out: Tensor) -> None:
        """Learns from images ``(N, C, *s)`` in [0, 1] that are in scope.

        Args:
            normal: what the Gaussians are of.
            plain: images, ``(M, C, *s)``.
            changed: the same, changed so that they stay in scope.
            held_out: of other patients, as they are and changed; they set the limits.
        """
        own, after, before = (self._measures(images) for images in (normal, changed, plain))
        for name, gaussian in self.gaussians.items():
            assert isinstance(gaussian, GaussianDensity)
            gaussian.fit(own[name], after[name] - before[name])
        self.widen(held_out)

    def widen(self, images: Tensor) -> None:
        """Takes images ``(N, C, *s)`` for in scope, where they are not yet."""
        limits = torch.quantile(self._distances(self._measures(images)), QUANTILE, dim=0)
        self.limits.copy_(torch.maximum(limits, self.limits))

    def forward(self, images: Tensor) -> InScope:
        """Where images ``(N, C, *s)`` lie, wherever they are stored; told on the CPU."""
        found = self._measures(images, self.ways)
        own, turned = self._distances(found), self.gaussians["arrangement"]
        others = torch.stack([turned(found[way]) for way in self.ways], dim=1)
        better = own[:, :1] / others.clamp_min(1e-6)
        return InScope((own / self.limits).cpu(), better.cpu(), self.ways)

    def _distances(self, found: Mapping[str, Tensor]) -> Tensor:
        """Mahalanobis distances per group of measures, ``(N, 3)``."""
        return torch.stack([self.gaussians[name](found[name]) for name in REASONS], dim=1)

    def _measures(self, images: Tensor, ways: Sequence[str] = ()) -> dict[str, Tensor]:
        """The groups of measures, and the arrangement of images turned in some ways."""
        found: dict[str, list[Tensor]] = {}
        for stored in images.split(AT_ONCE):
            one = stored.to(self.limits)
            for name, measure in GROUPS.items():
                found.setdefault(name, []).append(measure(one))
            for way in ways:
                found.setdefault(way, []).append(_arrangement(TURNED[way](one)))
        return {name: torch.cat(parts) for name, parts in found.items()}


def _arrangement(images: Tensor) -> Tensor:
    """Mean lightness of each field, whatever brightness and contrast are."""
    dims = images.ndim - 2
    fields = mean_in_cells(images, [SIDES[dims]] * dims).flatten(1)
    spread = fields.std(dim=1, keepdim=True)
    return (fields - fields.mean(dim=1, keepdim=True)) / (spread + 0.02)


def _detail(images: Tensor) -> Tensor:
    """Logarithm of the contrast in each octave of fineness, over all of it."""
    total, finer = _spread(images) + 1e-3, images
    found, pool = [], Pool[Pool.AVG, images.ndim - 2]
    for _ in range(OCTAVES):
        size = size_of(finer)
        coarser = pool([min(2, side) for side in size], ceil_mode=True)(finer)
        lost = finer - resized(coarser, size)
        found.append((_spread(lost) / total + 1e-4).log())
        finer = coarser
    return torch.stack(found, dim=1)


def _spread(images: Tensor) -> Tensor:
    """Standard deviation of each image's values; on a CPU `Tensor.std` takes ten times as long."""
    values = images.flatten(1)
    centred = values - values.mean(dim=1, keepdim=True)
    total: Tensor = torch.linalg.vector_norm(centred, dim=1)
    return total / math.sqrt(values.shape[1] - 1)


def _levels(images: Tensor) -> Tensor:
    """Quantiles and spread of the values, and how many lie at either end."""
    values = images.flatten(1)
    values = values[:, :: max(1, values.shape[1] // PIXELS)]
    quantiles = torch.quantile(values, values.new_tensor(SHARES), dim=1).T
    ends = [(values <= 0.004), (values >= 0.996)]
    shares = [(one.float().mean(dim=1, keepdim=True) + 0.01).log() for one in ends]
    return torch.cat([quantiles, values.std(dim=1, keepdim=True), *shares], dim=1)


GROUPS = {"arrangement": _arrangement, "detail": _detail, "levels": _levels}
"""The groups of measures."""

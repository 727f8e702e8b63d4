"""What is usual at a place of the body: moments of normal volumes, position by position."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from monai.networks.layers import separable_filtering
from torch import Tensor, nn

GRID = 64
"""Cells along each axis of the body's frame."""

SMOOTHING = 1.4
"""Standard deviation of the Gaussian over the moments, in cells: 4 to 5 mm in a head."""

WIDENING = (1.0, 2.0, 4.0)
"""Factors by which the smoothing along the slices' axis widens until there are patients enough."""

LEAST_PATIENTS = 3
"""Patients whose normal slices must lie near a position; else the overall moments serve."""

NEAR = 0.02
"""Smoothed presence from which a patient counts as near."""

FLOOR = 0.15
"""Share of the overall standard deviation that is added to each position's."""

SIGMA = 2 / 240
"""Standard deviation of the Gaussian over the map, as a share of the shorter side."""


class NormativeMap(nn.Module):
    """How far the values of a slice lie from those of normal slices at the same place of the body.

    After the normative models of neuroimaging (Marquand et al., 2016): robust z of the volume, less
    the mean at that position, over the standard deviation there. Left and right are pooled, see
    `transforms.place`.

    Args:
        in_channels: C.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        shape = (in_channels, GRID, GRID, GRID)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def forward(self, image: Tensor, body: Tensor, place: Tensor) -> Tensor:
        """Deviations from what is usual.

        Args:
            image: ``(B, C, H, W)``.
            body: ``(B, 1, H, W)``.
            place: ``(B, 1 + H + W)``, see `transforms.place.body_place`.

        Returns:
            ``(B, 1, H, W)``, the mean over the channels, in standard deviations; bright is
            positive, and 0 outside the body.
        """
        slices, rows, columns = weights(place, image.shape[-2])
        mean, std = (
            torch.einsum(
                "bcik,bwk->bciw",
                torch.einsum("bhj,bcjk->bchk", rows, torch.einsum("bi,cijk->bcjk", slices, moment)),
                columns,
            )
            for moment in (self.mean, self.std)
        )
        deviation = ((image.float() - mean) / std).mean(dim=1, keepdim=True)
        return deviation * body.to(deviation)

    def fit(self, cases: Iterable[tuple[Tensor, Tensor, Tensor]]) -> float:
        """Takes the normal slices of one patient after the other.

        Args:
            cases: ``image``, ``body`` and ``place`` of each, as in `forward`.

        Returns:
            How well the bodies' outlines agree: the mean Dice score of each patient's with that of
            most patients.
        """
        channels = len(self.mean)
        shape = (channels, GRID, GRID, GRID)
        device = self.mean.device
        count = torch.zeros((1, *shape[1:]), dtype=torch.float64, device=device)
        sums = [torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2)]
        patients = [torch.zeros_like(count) for _ in WIDENING]
        shown: list[Tensor] = []
        for image, body, place in cases:
            own = _gather(body.double(), place)
            count += own
            shown.append(own[0] > 0)
            for power, total in enumerate(sums, start=1):
                total += _gather(image.double().pow(power) * body, place)
            for total, factor in zip(patients, WIDENING, strict=True):
                total += _smooth((own > 0).double(), factor) > NEAR
        everywhere = count.sum().clamp_min(1.0)
        mean = (sums[0].sum(dim=(1, 2, 3), keepdim=True) / everywhere).expand(shape).clone()
        square = sums[1].sum(dim=(1, 2, 3), keepdim=True) / everywhere
        overall = (square - mean.square()).clamp_min(1e-12).sqrt()
        std = overall.clone()
        for near, factor in reversed(list(zip(patients, WIDENING, strict=True))):
            weight = _smooth(count, factor).clamp_min(1e-6)
            first, second = (_smooth(total, factor) / weight for total in sums)
            spread = (second - first.square()).clamp_min(0.0).sqrt() + FLOOR * overall
            known = (near >= LEAST_PATIENTS).expand(shape)
            mean, std = torch.where(known, first, mean), torch.where(known, spread, std)
        self.mean.copy_(mean)
        self.std.copy_(std)
        return _agreement(torch.stack(shown))


def _agreement(shown: Tensor) -> float:
    """Mean Dice score of bodies ``(N, G, G, G)`` with their common shape, in their own planes."""
    planes = shown.flatten(2).any(dim=2)[:, :, None, None]
    common = shown.sum(dim=0) > 0.5 * planes.sum(dim=0)
    both = (shown & common).flatten(1).sum(dim=1)
    either = shown.flatten(1).sum(dim=1) + (common & planes).flatten(1).sum(dim=1)
    return float((2 * both / either.clamp_min(1)).mean())


def smoothed(deviation: Tensor) -> Tensor:
    """The map of deviations ``(B, 1, H, W)``, smoothed within the slice."""
    shorter = min(int(side) for side in deviation.shape[-2:])  # a traced size is a tensor
    return separable_filtering(deviation, [_kernel(SIGMA * shorter, deviation)] * 2)


def _kernel(sigma: float, like: Tensor) -> Tensor:
    """A Gaussian integrated over each cell, up to 3 sigma; MONAI's own waits for the device."""
    tail = int(max(3.0 * sigma, 0.5) + 0.5)
    edges = torch.arange(-tail, tail + 2, dtype=like.dtype, device=like.device) - 0.5
    return 0.5 * torch.erf(edges / (math.sqrt(2.0) * sigma)).diff()


def weights(place: Tensor, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """Linear interpolation between the cells: of slices ``(B, G)``, rows, columns ``(B, n, G)``."""
    cells = torch.arange(GRID, device=place.device, dtype=place.dtype)
    found = (1 - (place[..., None] * (GRID - 1) - cells).abs()).clamp_min(0.0)
    return found[:, 0], found[:, 1 : 1 + height], found[:, 1 + height :]


def _gather(values: Tensor, place: Tensor) -> Tensor:
    """Sums ``(C, G, G, G)`` of values ``(B, C, H, W)`` at their places."""
    slices, rows, columns = (one.to(values.dtype) for one in weights(place, values.shape[-2]))
    planes = torch.einsum("bhj,bchw,bwk->bcjk", rows, values, columns)
    return torch.einsum("bi,bcjk->cijk", slices, planes)


def _smooth(values: Tensor, factor: float) -> Tensor:
    """A Gaussian over ``(C, G, G, G)``, wider along the slices' axis by a factor."""
    sigmas = (factor * SMOOTHING, SMOOTHING, SMOOTHING)
    return separable_filtering(values[:, None], [_kernel(s, values) for s in sigmas])[:, 0]


def as_slices(image: Tensor, context: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Image, body and place of slices; of patches of volumes, those of each of their slices.

    Args:
        image: ``(B, C, H, W)``, or ``(B, C, D, H, W)``.
        context: ``body`` and ``place`` of them, which is then ``(B, D + H + W)``.
    """
    body, place = context["body"], context["place"]
    if image.ndim == 4:
        return image, body, place
    depth = image.shape[2]
    image, body = (one.transpose(1, 2).flatten(0, 1) for one in (image, body))
    across = place[:, depth:].repeat_interleave(depth, dim=0)
    return image, body, torch.cat([place[:, :depth].reshape(-1, 1), across], dim=1)


def as_images(slices: Tensor, image: Tensor) -> Tensor:
    """What `as_slices` made of images, as the images' own: ``(B, 1, H, W)`` or with D before H."""
    if image.ndim == 4:
        return slices
    whole: Tensor = slices.unflatten(0, (-1, image.shape[2]))
    return whole.transpose(1, 2)


def by_case(
    batches: Iterable[tuple[Tensor, Mapping[str, Tensor]]],
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Image, body and place of one patient after the other."""
    gathered: list[tuple[Tensor, Tensor, Tensor]] = []
    last = None
    for image, context in batches:
        slices = as_slices(image, context)
        cases = context["case"].repeat_interleave(len(slices[0]) // len(image))
        for case, rows in _runs(cases):
            if case != last and gathered:
                yield _joined(gathered)
                gathered = []
            image, body, place = (one[rows] for one in slices)
            gathered.append((image, body, place))
            last = case
    if gathered:
        yield _joined(gathered)


def _runs(cases: Tensor) -> list[tuple[int, slice]]:
    """The case and the rows of each stretch of equal numbers ``(B,)``."""
    numbers, counts = torch.unique_consecutive(cases, return_counts=True)
    ends = counts.cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    return [(int(n), slice(a, b)) for n, a, b in zip(numbers, starts, ends, strict=True)]


def _joined(gathered: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    image, body, place = (torch.cat(one) for one in zip(*gathered, strict=True))
    return image, body, place

"""Patches of volumes, for detectors that see them in three dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from monai.data.utils import dense_patch_slices
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from transforms.errors import InputError

if TYPE_CHECKING:
    from pipelines.data.datasets import NormalSlices
    from pipelines.data.slices import CaseLoader


Place = tuple[Tensor, slice, slice]
"""Of a patch: its slices ``(D,)``, rows and columns."""


def spatial_dims(patch_size: Sequence[int] | None = None, signals: bool = False) -> int:
    """Axes of what a detector sees: 1 of signals, 3 of volumes with a patch size, else 2."""
    if signals:
        return 1
    return 2 if patch_size is None else 3


def checked_patch_size(
    patch_size: Sequence[int] | None, image_size: Sequence[int], volumetric: bool | None
) -> tuple[int, int, int] | None:
    """A patch size as a loader takes it.

    Args:
        patch_size: (slices, height, width); None for whole slices.
        image_size: (height, width) of the slices.
        volumetric: whether the files are volumes; None if unknown.

    Raises:
        InputError: for pictures, and for patches that a slice cannot hold.
    """
    if patch_size is None:
        return None
    if volumetric is False:
        raise InputError(
            f"patch_size: expected volumes to cut patches of {list(patch_size)} from, found "
            "pictures. Leave the option out."
        )
    depth, height, width = map(int, patch_size)
    if height > image_size[0] or width > image_size[1]:
        raise InputError(
            f"patch_size: expected at most image_size, {image_size[0]} x {image_size[1]}, found "
            f"{height} x {width}. Make image_size larger or the patch smaller."
        )
    return depth, height, width


def consecutive(slices: Tensor, cases: NDArray[np.int64] | None = None) -> list[list[int]]:
    """Stretches of slices that follow each other in one volume.

    Args:
        slices: their numbers ``(N,)``.
        cases: of which volume each is, ``(N,)``; None for one volume.

    Returns:
        The positions of each stretch.

    Example:
        >>> consecutive(torch.tensor([4, 5, 8, 9]))
        [[0, 1], [2, 3]]
    """
    breaks = np.diff(slices.numpy()) != 1
    if cases is not None:
        breaks |= np.diff(cases) != 0
    found = np.split(np.arange(len(slices)), np.flatnonzero(breaks) + 1)
    return [one.tolist() for one in found if len(one)]


def windows(
    length: int, image_size: Sequence[int], patch_size: Sequence[int], overlap: float
) -> list[tuple[slice, slice, slice]]:
    """Where patches lie in so many slices: slices, rows and columns of each.

    Example:
        >>> [int(along.start) for along, _, _ in windows(24, (96, 96), (16, 96, 96), 0.5)]
        [0, 8]
    """
    shape = [max(length, patch_size[0]), *image_size]
    step = [max(1, int(side * (1 - overlap))) for side in patch_size]
    return [(a, b, c) for a, b, c in dense_patch_slices(shape, patch_size, step)]


def places(stretches: Iterable[Sequence[int]], loader: CaseLoader) -> Iterator[Place]:
    """Where patches lie in stretches of slices; a short one is continued with its last slice."""
    for stretch in stretches:
        numbers = torch.tensor(stretch)
        for along, rows, columns in loader.windows(len(stretch)):
            own = torch.arange(along.start, along.stop).clamp_max(len(stretch) - 1)
            yield numbers[own], rows, columns


def cut(slices: Tensor, place: Place) -> Tensor:
    """The patch ``(C, D, h, w)`` at a place in slices ``(N, C, H, W)``."""
    numbers, rows, columns = place
    return slices[numbers][..., rows, columns].movedim(0, 1)


class NormalPatches(Dataset[dict[str, Tensor]]):
    """The normal slices of volumes as patches, cut when asked for.

    Patches lie in stretches of normal slices, so none shows a lesion. A stretch that is shorter
    than a patch is continued with its last slice; patches without any body are left out.

    Args:
        slices: the normal slices, whose loader says how large the patches are.

    Attributes:
        data: the cases.
        region: where synthetic anomalies may lie.
        images: the slices, ``(N, C, H, W)``.
        context: what goes with them.
        places: of each patch its slices ``(D,)``, rows and columns.
    """

    def __init__(self, slices: NormalSlices) -> None:
        self.slices = slices
        self.data, self.region = slices.data, slices.region
        self.images, self.context = slices.images, slices.context
        self.places: list[Place] = []
        loader = cast("CaseLoader", slices.transform)
        for place in places(slices.stretches, loader):
            if cut(self.context["body"], place).any():
                self.places.append(place)

    def reside(self, device: torch.device) -> bool:
        """See `NormalSlices.reside`."""
        return self.slices.reside(device)

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One patch: ``image`` ``(C, D, h, w)``, its ``index`` and its context."""
        numbers, rows, columns = self.places[index]
        found = self.slices.__getitems__(numbers.tolist())
        patch = {
            name: value[..., rows, columns].movedim(0, 1)
            for name, value in found.items()
            if value.ndim == self.images.ndim
        }
        if "place" in found:
            place, height = found["place"], self.images.shape[-2]
            across = place[0, 1 : 1 + height][rows], place[0, 1 + height :][columns]
            patch["place"] = torch.cat([place[:, 0], *across])
        numbered = {name: found[name][0] for name in ("case", "slice")}
        return patch | numbered | {"index": torch.tensor(index)}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A batch at once: ``image`` ``(B, C, D, h, w)``, its numbers ``(B,)`` and the context."""
        found = [self[index] for index in indices]
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}


def as_seen(slices: NormalSlices) -> NormalSlices | NormalPatches:
    """Normal slices as the detector is trained on them: themselves, or patches of volumes."""
    return NormalPatches(slices) if getattr(slices.transform, "patch_size", None) else slices

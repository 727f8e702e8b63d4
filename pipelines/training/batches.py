"""The data's batches as a detector sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from networks import Inputs
from pipelines.common import track


class Images(Protocol):
    """A data set of images that gives a batch at once."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """``image`` ``(B, C, H, W)`` and its context, of these indices."""
        ...


class Labelled(Protocol):
    """Labelled anomalies."""

    def __len__(self) -> int:
        """Number of cases."""
        ...

    def drawn(self, count: int, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """So many images ``(B, C, H, W)``, their bodies and their masks ``(B, 1, H, W)``.

        A mask is 0 or 1, or NaN where it is only known that the image holds an anomaly.
        """
        ...


def as_inputs(
    batch: Mapping[str, Tensor],
    needs: Sequence[str],
    device: torch.device,
    non_blocking: bool = False,
) -> Inputs:
    """A loader's batch as a detector sees it, on its device.

    Raises:
        ValueError: when the loader does not give what the detector needs.
    """
    absent = [name for name in needs if name not in batch]
    if absent:
        raise ValueError(
            f"needs: this detector needs {', '.join(absent)}, which the data do not give; "
            f"they give {', '.join(batch)}."
        )
    wanted = {name: batch[name] for name in (Keys.IMAGE, *needs)}
    moved = {name: v.to(device, non_blocking=non_blocking) for name, v in wanted.items()}
    return Inputs(moved.pop(Keys.IMAGE), moved)


class NormalBatches:
    """The normal images of the training as `Detector.prepare` sees them.

    Args:
        dataset: gives batches of ``image`` and context by their indices.
        device: where the detector is.
        batch_size: images at once.
    """

    def __init__(
        self,
        dataset: Images,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
    ) -> None:
        self.dataset = dataset
        self.device = torch.device(device)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Inputs]:
        """Batches in the order of the data set."""
        starts = range(0, len(self.dataset), self.batch_size)
        for start in track(starts, "Fitting", len(starts), "batches"):
            yield self._inputs(range(start, min(start + self.batch_size, len(self.dataset))))

    def spread(self, count: int) -> Inputs:
        """At most ``count`` evenly spaced images."""
        step = max(1, len(self.dataset) // count)
        return self._inputs(range(0, len(self.dataset), step)[:count])

    def _inputs(self, indices: Iterable[int]) -> Inputs:
        batch = self.dataset.__getitems__(list(indices))
        return as_inputs(batch, [name for name in batch if name != Keys.IMAGE], self.device)

"""The data sets of training and scoring: normal slices in memory, cases when asked for."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from monai.data import Dataset as MonaiDataset
from monai.data import ThreadDataLoader
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipelines.common import (
    EpochSampler,
    counted,
    processes,
    rank,
    share,
    spare_threads,
    track,
    worker_threads,
)
from pipelines.data.cases import Case, FailedCase
from pipelines.data.layouts.files import printable
from pipelines.data.patches import NormalPatches, consecutive
from pipelines.data.regions import Regions
from pipelines.data.signals import SignalLoader
from pipelines.data.slices import CaseLoader, CaseSample, require_slices
from transforms.errors import InputError

logger = logging.getLogger(__name__)

RESIDENT_SHARE = 0.25
"""Share of a GPU's free memory that the normal slices may fill."""


class NormalSlices(Dataset[dict[str, Tensor]]):
    """The normal slices of cases, read once and kept in memory.

    Args:
        data: the cases.
        transform: cuts a case into slices.
        num_threads: threads that read; None takes one per processor, up to eight.
        regions: where synthetic anomalies may lie.

    Attributes:
        images: the slices, ``(N, C, H, W)``.
        region: where synthetic anomalies may lie: ``body``, ``lungs`` or ``folder``.
        context: what goes with them: the ``body`` and the ``region``, ``(N, 1, H, W)`` bool.
        case_numbers: the position in ``data`` of the case of each slice, ``(N,)``.
        slice_numbers: the slice's own in its case, ``(N,)``; 0 for a picture.

    Raises:
        InputError: when no normal slice is found.
    """

    def __init__(
        self,
        data: Iterable[Case],
        transform: CaseLoader | SignalLoader,
        num_threads: int | None = None,
        regions: Regions | None = None,
    ) -> None:
        regions = regions or Regions()
        self.data = regions.assigned(tuple(data))
        self.region = regions.kind
        self.transform = transform
        with worker_threads(num_threads or min(8, os.cpu_count() or 1)) as pool:
            found = list(
                track(pool.map(self._normals, self.data), "Reading", len(self.data), "cases")
            )
        counts = [len(one[Keys.IMAGE]) for one in found]
        if not any(counts):
            raise InputError(
                f"dataset_dir: no normal slice in {counted(len(self.data), 'case')}. "
                f"{transform.normal_told}"
            )
        self.slice_numbers = torch.cat([one.pop("slice") for one in found])
        self.images = torch.cat([one[Keys.IMAGE] for one in found])
        self.context = {
            n: torch.cat([one[n] for one in found]) for n in found[0] if n != Keys.IMAGE
        }
        self.context["region"] = regions.masks(self.images, self.context)
        self.case_numbers = np.repeat(np.arange(len(counts)), counts)
        self._resident: dict[str, Tensor] = {}

    def _normals(self, case: Case) -> dict[str, Tensor]:
        sample = self.transform(case)
        everything = {
            Keys.IMAGE.value: sample.images, "slice": sample.indices, **sample.context
        }  # fmt: skip
        return {name: value[sample.labels == 0] for name, value in everything.items()}

    @property
    def stretches(self) -> list[list[int]]:
        """The positions of slices that follow each other in one volume."""
        return consecutive(self.slice_numbers, self.case_numbers)

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One slice: ``image`` ``(C, H, W)``, its ``index`` and its context."""
        found = self.__getitems__([index])
        return {name: value[0] for name, value in found.items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A batch at once: ``image`` ``(B, C, H, W)``, its numbers ``(B,)`` and the context."""
        index = torch.as_tensor(indices)
        case = torch.from_numpy(self.case_numbers)[index]
        numbers = {"index": index, "case": case, "slice": self.slice_numbers[index]}
        there = index.to(self._kept[Keys.IMAGE].device, non_blocking=True)
        return numbers | {name: value[there] for name, value in self._kept.items()}

    @property
    def _kept(self) -> dict[str, Tensor]:
        """Images and context, where batches are taken from."""
        return self._resident or {Keys.IMAGE: self.images, **self.context}

    def reside(self, device: torch.device) -> bool:
        """Gives batches from a copy on a GPU from now on, if its memory has room; tells if so."""
        if device.type == "cuda" and not self._resident:
            room = RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
            if sum(value.nbytes for value in self._kept.values()) <= room:
                self._resident = {name: value.to(device) for name, value in self._kept.items()}
        return bool(self._resident)


def slice_loader(
    dataset: NormalSlices | NormalPatches,
    batch_size: int,
    seed: int = 0,
    phase: str | None = None,
    min_samples: int = 0,
    num_workers: int = 0,
) -> DataLoader[dict[str, Tensor]]:
    """Batches of slices, in their order or shuffled by (seed, phase, epoch).

    A shuffled epoch has no last batch of one slice, by which nothing can be normalised. Several
    processes have their shares: their shuffled batches together are the batch of one process.
    Slices that a network sees in patches of their volume come in their order, by
    `NormalSlices.stretches`, and all to each process.

    Args:
        dataset: the slices, or patches.
        batch_size: slices per batch of a process.
        seed: the run's seed.
        phase: name of the phase that shuffles them anew for each epoch; None keeps the order.
        min_samples: least length of an epoch; a smaller data set is gone through several times.
        num_workers: worker processes; the result does not depend on it.
    """
    if isinstance(dataset, NormalSlices) and getattr(dataset.transform, "patch_size", None):
        return DataLoader(
            dataset, batch_sampler=dataset.stretches, num_workers=num_workers, collate_fn=_as_is
        )
    sampler: Any = share(len(dataset), int(batch_size))
    if phase:
        sampler = EpochSampler(dataset, seed, phase, int(min_samples), processes(), rank())
    return DataLoader(
        dataset,
        batch_size=int(batch_size),
        sampler=sampler,
        drop_last=phase is not None and len(sampler) > 1 == len(sampler) % int(batch_size),
        num_workers=num_workers,
        collate_fn=_as_is,
        pin_memory=torch.cuda.is_available(),
    )


class CaseDataset(MonaiDataset):
    """Cases, read and cut when asked for; one that cannot be used does not stop the others.

    Args:
        data: the cases.
        transform: cuts a case into slices.
        baselines: whether to compute the trivial scores too, if it can.
    """

    def __init__(
        self,
        data: Iterable[Case],
        transform: Callable[[Case], CaseSample],
        baselines: bool = False,
    ) -> None:
        super().__init__(tuple(data))
        if baselines and isinstance(transform, (CaseLoader, SignalLoader)):
            transform = type(transform)(**transform.parameters, with_baselines=True)
        self.read = transform  # MONAI's own attribute would hide what is wrong with a case

    def _transform(self, index: int) -> CaseSample | FailedCase:
        """Reads one case, or says why it cannot be used."""
        case = self.data[index]
        try:
            return require_slices(self.read(case))
        except InputError as error:
            return FailedCase(case, printable(str(error)))
        except Exception as error:  # one odd file must not end an unattended run
            logger.debug("%s", case.name, exc_info=True)
            found = f"{type(error).__name__}: {error}"
            told = f"{case.images[0]}: reading failed unexpectedly ({found})."
            return FailedCase(case, printable(told))


class CaseBatches(ThreadDataLoader):
    """Lists of cases in their order; threads read the next ones, unless worker processes do."""

    def __iter__(self) -> Iterator[list[CaseSample | FailedCase]]:  # type: ignore[override]
        """As many lists as there are threads are read ahead, and no more kept."""
        if self.num_workers:
            yield from super().__iter__()  # type: ignore[no-untyped-call]
            return
        pool = worker_threads(spare_threads(), "reader")
        ahead: deque[Future[list[Any]]] = deque()
        try:
            for indices in self.batch_sampler or ():
                ahead.append(pool.submit(self._read, indices))
                if len(ahead) > spare_threads():
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, indices: Sequence[int]) -> list[CaseSample | FailedCase]:
        return [self.dataset[index] for index in indices]


def case_loader(dataset: CaseDataset, batch_size: int = 1, num_workers: int = 0) -> CaseBatches:
    """The loader of cases that are scored.

    Args:
        dataset: the cases.
        batch_size: pictures in a list; volumes, which have slices enough, come one by one.
        num_workers: worker processes; the result does not depend on it.
    """
    volumetric = getattr(dataset.read, "volumetric", False)
    return CaseBatches(
        dataset,
        buffer_size=1,
        batch_size=1 if volumetric else int(batch_size),
        num_workers=num_workers,
        collate_fn=_as_is,
    )


def _as_is(batch: Any) -> Any:
    return batch

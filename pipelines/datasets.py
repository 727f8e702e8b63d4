"""From cases to the slices that the network sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipelines.case_baselines import SliceBaselines, slice_baselines
from pipelines.cases import Case
from pipelines.data import Data
from pipelines.progress import track
from pipelines.seeding import EpochSampler
from transforms.errors import InputError
from transforms.geometry import SliceAxis, SliceGeometry
from transforms.intensity import ScaleBody, ScaleMethod
from transforms.readers import read_case, read_mask
from transforms.slices import Slicer, select_slices, slice_labels


@dataclass(frozen=True)
class CaseSample:
    """One case as it is scored.

    Attributes:
        case: where it comes from.
        images: the chosen slices as the network sees them, ``(K, C, H, W)`` in [0, 1].
        raw: the same slices with the file's own values and resolution, ``(K, C, h, w)``.
        indices: their numbers along the volume's axis, ``(K,)``; 0 for a picture.
        labels: 1 anomalous, 0 normal, -1 unknown or left out, ``(K,)`` int8.
        masks: lesion masks at the file's resolution, ``(K, h, w)`` bool; None when unknown.
        geometry: how the slices lie in the file.
        baselines: trivial scores of the slices, for evaluation only.
    """

    case: Case
    images: Tensor
    raw: Tensor
    indices: Tensor
    labels: Tensor
    masks: Tensor | None
    geometry: SliceGeometry
    baselines: SliceBaselines | None = None


class CaseLoader:
    """Reads a case, scales its intensities and cuts it into slices.

    Args:
        image_size: side of the network's input, or (H, W), in pixels.
        axis: anatomical axis along which volumes are cut.
        intensity: how values become [0, 1]; see `transforms.intensity.ScaleBody`.
        slice_range: first and last slice to use, both included; None uses all.
        min_body_fraction: smallest share of a slice that the body must fill.
        min_lesion_pixels: lesion pixels from which a slice is anomalous.
        normal_margin: slices between a normal slice and the nearest lesion.
        channels: number of channels expected; None accepts any.
        with_baselines: whether to compute the trivial scores too, for evaluation.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 128,
        axis: SliceAxis = "axial",
        intensity: ScaleMethod = "auto",
        slice_range: Sequence[int] | None = None,
        min_body_fraction: float = 0.1,
        min_lesion_pixels: int = 20,
        normal_margin: int = 0,
        channels: int | None = None,
        with_baselines: bool = False,
    ) -> None:
        self.slicer = Slicer(axis, image_size)
        self.scale = ScaleBody(intensity)
        self.slice_range = _checked_range(slice_range)
        self.min_body_fraction = float(min_body_fraction)
        self.min_lesion_pixels = int(min_lesion_pixels)
        self.normal_margin = int(normal_margin)
        self.channels = channels
        self.with_baselines = with_baselines

    @property
    def parameters(self) -> dict[str, Any]:
        """Plain values from which ``CaseLoader(**parameters)`` rebuilds this loader."""
        return {
            "image_size": list(self.slicer.image_size),
            "axis": self.slicer.axis,
            "intensity": self.scale.method,
            "slice_range": None if self.slice_range is None else list(self.slice_range),
            "min_body_fraction": self.min_body_fraction,
            "min_lesion_pixels": self.min_lesion_pixels,
            "normal_margin": self.normal_margin,
            "channels": self.channels,
        }

    def __call__(self, case: Case) -> CaseSample:
        """Reads and cuts one case.

        Raises:
            InputError: when a file cannot be used.
        """
        raw = self._with_channels(read_case(case.images, case.channels), case)
        scaled = self.scale(raw)
        native = self.slicer.native(raw)
        mask = None if case.mask is None else read_mask(case.mask, raw)
        masks = None if mask is None else self.slicer.native(mask)[:, 0].bool()
        indices = self._chosen(scaled)
        labels = self._labels(case, masks, len(native))
        stack = self.slicer(scaled, indices=indices)
        return CaseSample(
            case=case,
            images=stack.images,
            raw=native[indices],
            indices=indices,
            labels=labels[indices],
            masks=None if masks is None else masks[indices],
            geometry=stack.geometry,
            baselines=(
                slice_baselines(native, indices, raw.ndim == 4) if self.with_baselines else None
            ),
        )

    def _with_channels(self, raw: Any, case: Case) -> Any:
        found = len(raw)
        if self.channels is None or found == self.channels:
            return raw
        if found == 1:
            return raw.repeat(self.channels, *[1] * (raw.ndim - 1))
        raise InputError(
            f"{case.images[0]}: expected {self.channels} channel(s) like the first training case, "
            f"found {found}. Export all files alike, or leave this one out."
        )

    def _chosen(self, scaled: Tensor) -> Tensor:
        if scaled.ndim == 3:
            return torch.zeros(1, dtype=torch.long)
        body = (self.slicer.native(scaled) > 0).any(dim=1)
        return select_slices(body, None, self.min_body_fraction, self.slice_range)

    def _labels(self, case: Case, masks: Tensor | None, count: int) -> Tensor:
        if masks is not None and (count > 1 or case.label is None):
            return slice_labels(masks, self.min_lesion_pixels, self.normal_margin)
        # A volume known to be anomalous, without a mask, says nothing of its single slices.
        label = case.label if case.label == 0 or count == 1 else None
        return torch.full((count,), -1 if label is None else label, dtype=torch.int8)


def with_baselines(loader: CaseLoader) -> CaseLoader:
    """A loader like the given one that computes the trivial scores too."""
    return CaseLoader(**loader.parameters, with_baselines=True)


def count_channels(data: Data) -> int:
    """Number of channels of a data set: that of its first training case."""
    case = data.split.train[0]
    return len(read_case(case.images, case.channels))


class NormalSlices(Dataset[dict[str, Tensor]]):
    """The normal slices of cases, read once and kept in memory.

    Args:
        data: the cases.
        transform: cuts a case into slices.
        num_threads: threads that read; None takes one per processor, up to eight.
        description: what the progress is called.

    Raises:
        InputError: when no normal slice is found.
    """

    def __init__(
        self,
        data: Iterable[Case],
        transform: CaseLoader,
        num_threads: int | None = None,
        description: str = "Reading",
    ) -> None:
        self.data = tuple(data)
        self.transform = transform
        with ThreadPoolExecutor(num_threads or min(8, os.cpu_count() or 1)) as pool:
            found = list(
                track(pool.map(self._normals, self.data), description, len(self.data), "cases")
            )
        images = [one for one in found if len(one)]
        if not images:
            raise InputError(
                f"dataset_dir: no normal slice in {len(self.data)} case(s). A slice is normal when "
                f"it shows no lesion, lies in slice_range {transform.slice_range} and the body "
                f"fills at least {transform.min_body_fraction:.0%} of it; loosen these options."
            )
        self.images = torch.cat(images)

    def _normals(self, case: Case) -> Tensor:
        sample = self.transform(case)
        return sample.images[sample.labels == 0]

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One slice: ``image`` ``(C, H, W)`` and its ``index``."""
        return {Keys.IMAGE: self.images[index], "index": torch.tensor(index)}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A batch at once: ``image`` ``(B, C, H, W)`` and ``index`` ``(B,)``."""
        index = torch.as_tensor(indices)
        return {Keys.IMAGE: self.images[index], "index": index}

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Per-channel mean and standard deviation over all slices, ``(C,)`` each."""
        values = self.images.double()
        mean = values.mean(dim=(0, 2, 3))
        return mean.float(), values.std(dim=(0, 2, 3)).float()

    def first_images(self, count: int) -> Tensor:
        """Evenly spaced slices ``(count or fewer, C, H, W)``, for initialising from data."""
        step = max(1, len(self.images) // count)
        return self.images[::step][:count]


def slice_loader(
    dataset: NormalSlices,
    batch_size: int,
    seed: int = 0,
    phase: str = "train",
    shuffle: bool = False,
    min_samples: int = 0,
    num_workers: int = 0,
) -> DataLoader[dict[str, Tensor]]:
    """Batches of slices; shuffled by (seed, phase, epoch) when asked.

    Args:
        dataset: the slices.
        batch_size: slices per batch.
        seed: the run's seed.
        phase: name of the phase, for the order.
        shuffle: whether the order changes by epoch.
        min_samples: least length of an epoch; a smaller data set is gone through several times.
        num_workers: worker processes; the result does not depend on it.
    """
    sampler = EpochSampler(dataset, seed, phase, int(min_samples)) if shuffle else None
    return DataLoader(
        dataset,
        batch_size=int(batch_size),
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_as_is,
        pin_memory=torch.cuda.is_available(),
    )


class CaseDataset(Dataset[CaseSample]):
    """Cases, read and cut when asked for.

    Args:
        data: the cases.
        transform: cuts a case into slices.
    """

    def __init__(self, data: Iterable[Case], transform: Callable[[Case], CaseSample]) -> None:
        self.data = tuple(data)
        self.transform = transform

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.data)

    def __getitem__(self, index: int) -> CaseSample:
        """Reads one case."""
        return self.transform(self.data[index])


def case_loader(
    dataset: CaseDataset, cases_per_batch: int = 1, num_workers: int = 0
) -> DataLoader[CaseSample]:
    """Lists of cases in their order; workers read ahead."""
    return DataLoader(
        dataset, batch_size=cases_per_batch, num_workers=num_workers, collate_fn=_as_is
    )


def evaluation_loader(model: Mapping[str, Any]) -> CaseLoader:
    """The loader that a model was trained with, computing the trivial scores too."""
    return CaseLoader(**model["preprocessing"], with_baselines=True)


def _as_is(batch: Any) -> Any:
    return batch


def _checked_range(slice_range: Sequence[int] | None) -> tuple[int, int] | None:
    if slice_range is None:
        return None
    if not isinstance(slice_range, Sequence) or len(slice_range) != 2:
        raise InputError(
            f"slice_range: expected the first and the last slice, e.g. [25,130], found "
            f"{slice_range}."
        )
    return int(slice_range[0]), int(slice_range[1])

"""A few labelled anomalies, from which a training may learn beside its normal images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from pipelines.common import counted, track
from pipelines.data.cases import Case, Cohort
from pipelines.data.cohort import Data
from pipelines.data.layouts import is_plain_folder, read_cohort
from pipelines.data.patches import Place, consecutive, cut, places
from pipelines.data.slices import CaseLoader, CaseSample
from transforms.errors import InputError
from transforms.slices import to_canvas


class LabelledBatch(NamedTuple):
    """Anomalous slices, s being (H, W), or patches of volumes, (D, H, W).

    Attributes:
        image: ``(B, C, *s)`` in [0, 1].
        body: ``(B, 1, *s)`` bool.
        mask: of the lesion, ``(B, 1, *s)``, 0 or 1; NaN where it is not known.
    """

    image: Tensor
    body: Tensor
    mask: Tensor

    def of(self, rows: Tensor, device: torch.device) -> LabelledBatch:
        """Some of them, on a device."""
        return LabelledBatch(*(one[rows].to(device) for one in self))


class LabelledAnomalies:
    """Anomalous slices of labelled cases, read when first wanted and kept in memory.

    Args:
        path: a plain folder whose images all are anomalous; or a data set in one of the layouts,
            such as a table, with labels or masks. None for no labels.
        data: the training's data; its calibration and test patients may not be among the labelled.
        transform: cuts a case into slices.

    Attributes:
        cases: the labelled cases; none without a path.

    Raises:
        InputError: when there are none, or they do not go with the data.
    """

    def __init__(
        self, path: str | None, data: Data, transform: Callable[[Case], CaseSample]
    ) -> None:
        self.path = path
        self.cases = _cases(path, data) if path else ()
        self.transform = transform

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.cases)

    @cached_property
    def slices(self) -> LabelledBatch:
        """All anomalous slices; of volumes seen in patches, all patches that show a lesion.

        Raises:
            InputError: when no case shows one, or one cannot be used.
        """
        read = track(map(self.transform, self.cases), "Reading labels", len(self.cases), "cases")
        found = [one for sample in read if len((one := self._anomalous(sample)).image)]
        if not found:
            raise InputError(
                f"labelled_anomalies: no anomalous slice in {counted(len(self.cases), 'case')} "
                f"of {self.path}. A volume needs a mask, and a slice at least min_lesion_pixels of "
                "it."
            )
        return LabelledBatch(*(torch.cat(one) for one in zip(*found, strict=True)))

    def drawn(self, count: int, source: torch.Generator) -> LabelledBatch:
        """Some drawn with replacement, on the device of the generator."""
        total = len(self.slices.image)
        rows = torch.randint(total, (count,), generator=source, device=source.device)
        return self.slices.of(rows.cpu(), source.device)

    def _anomalous(self, sample: CaseSample) -> LabelledBatch:
        image, body = sample.images, sample.context["body"]
        mask = torch.full_like(image[:, :1], torch.nan)
        if sample.masks is not None:
            mask = to_canvas(sample.masks[:, None], sample.geometry, "nearest").to(image.dtype)
        anomalous = sample.labels == 1
        if not getattr(self.transform, "patch_size", None):
            return LabelledBatch(image[anomalous], body[anomalous], mask[anomalous])
        shown = mask * anomalous[:, None, None, None]
        loader = cast(CaseLoader, self.transform)
        found = [
            place
            for place in places(consecutive(sample.indices), loader)
            if (cut(shown, place) > 0).any()
        ]
        return LabelledBatch(*(_patches(one, found) for one in (image, body, mask)))


def _patches(slices: Tensor, found: Sequence[Place]) -> Tensor:
    return torch.stack([cut(slices, one) for one in found]) if found else slices[:0]


def labelled_kind(path: str | None, modalities: str | Sequence[str] | None = None) -> str | None:
    """What is known of labelled anomalies: ``masks`` of some, or ``images`` that hold one.

    Args:
        path: see `LabelledAnomalies`; None for no labels, of which nothing is known.
        modalities: the channels to read, as of the training.
    """
    if not path:
        return None
    cases = _cohort(path, modalities).cases
    return "masks" if any(case.mask is not None for case in cases) else "images"


def _cases(path: str, data: Data) -> tuple[Case, ...]:
    cohort = _cohort(path, data.cohort.modalities)
    if cohort.volumetric != data.cohort.volumetric or len(cohort.modalities) != len(
        data.cohort.modalities
    ):
        raise InputError(
            f"labelled_anomalies: {path} differs from dataset_dir in kind (pictures or volumes) or "
            "in its number of modalities. Give files like those of the training."
        )
    cases = tuple(case for case in cohort.cases if case.label == 1 or case.mask is not None)
    if not cases:
        raise InputError(
            f"labelled_anomalies: {path} names no case that is labelled anomalous or has a mask."
        )
    _require_apart(cases, data)
    return cases


def _cohort(path: str, modalities: str | Sequence[str] | None) -> Cohort:
    """Read by the layout that it has, or else as a plain folder of anomalous images."""
    root = Path(path).expanduser()
    plain = is_plain_folder(root)
    try:
        found = read_cohort(root, "normals" if plain else "auto", modalities)
    except InputError as error:
        raise InputError(str(error).replace("dataset_dir:", "labelled_anomalies:", 1)) from error
    if not plain:
        return found
    return replace(found, cases=tuple(replace(case, label=1) for case in found.cases))


def _require_apart(cases: Iterable[Case], data: Data) -> None:
    """Refuses patients by whom the model will be calibrated or judged."""
    judged = {*data.split.patients("calibration"), *data.split.patients("test")}
    both = sorted({case.patient for case in cases} & judged)
    if both:
        raise InputError(
            f"labelled_anomalies: {len(both)} of its patients are among those that calibrate or "
            f"test the model, such as {both[0]!r}. Leave them out, or fix the division with "
            "--split."
        )

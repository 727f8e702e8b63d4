"""From cases to the slices that the network sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from scipy.ndimage import label
from torch import Tensor

from pipelines.common import counted
from pipelines.data.baselines import SliceBaselines, slice_baselines
from pipelines.data.cases import Case
from pipelines.data.patches import checked_patch_size, windows
from transforms.errors import InputError
from transforms.geometry import SliceAxis, SliceGeometry
from transforms.intensity import ScaleBody, ScaleMethod, body_mask
from transforms.place import body_place
from transforms.readers import read_case, read_mask
from transforms.signals import is_signal
from transforms.slices import Slicer, on_grid, select_slices, slice_labels, to_canvas, to_native

KEPT_HEADER = (
    "xyzt_units", "qform_code", "sform_code", "bit_depth", "modality", "series_uid",
    "dicom_files", "dicom_frames",
)  # fmt: skip
"""What stays of a file's header: units and codes of the grid, and the files of a DICOM series."""


Part = Literal["image", "slice", "window"]
Whole = Literal["volume", "signal"]


@dataclass(frozen=True)
class CaseSample:
    """One case as it is scored.

    Attributes:
        case: where it comes from.
        images: the chosen slices as the network sees them, ``(K, C, H, W)`` in [0, 1].
        indices: their numbers along the volume's axis, ``(K,)``; 0 for a picture.
        labels: 1 anomalous, 0 normal, -1 unknown or left out, ``(K,)`` int8.
        masks: lesion masks at the file's resolution, ``(K, h, w)`` bool; None when unknown.
        geometry: how the slices lie in the file.
        body: where the file shows the body, ``(K, h, w)`` bool; the whole of a picture. Decided
            here alone, for training, calibration, metrics and baselines alike.
        context: what a detector may need beside the images, on their canvas: ``body``
            ``(K, 1, H, W)`` bool; of a volume the ``place`` in it, see
            `transforms.place.body_place`; and where the case has one, its ``region``.
        baselines: trivial scores of the slices, for evaluation only.
        header: what a writer needs of the file's header; plain values.
    """

    case: Case
    images: Tensor
    indices: Tensor
    labels: Tensor
    masks: Tensor | None
    geometry: SliceGeometry
    body: Tensor
    context: Mapping[str, Tensor] = field(default_factory=dict)
    baselines: SliceBaselines | None = None
    header: Mapping[str, Any] = field(default_factory=dict)

    def native(self, maps: Tensor) -> Tensor:
        """Maps on the canvas ``(K, H, W)`` at the file's resolution, ``(K, h, w)``."""
        return to_native(maps, self.geometry)

    def on_grid(self, maps: Tensor) -> MetaTensor:
        """Maps at the file's resolution ``(K, h, w)`` on the grid of the file.

        Returns:
            ``(X, Y, Z)`` with the volume's affine, 0 outside the outline of the body and in slices
            without a map; or ``(H, W)`` for a picture.
        """
        if self.geometry.slice_axis is not None:
            outlines = np.stack([_filled(one) for one in self.body.numpy()])
            maps = maps * torch.from_numpy(outlines)
        return on_grid(maps, self.geometry, self.indices)

    @property
    def levels(self) -> tuple[Part, Whole | None]:
        """What the scores are of, and what of these together, if anything."""
        return ("image", None) if self.geometry.slice_axis is None else ("slice", "volume")

    @property
    def times(self) -> Sequence[Any]:
        """When the parts begin, as the file tells the time, ``(K,)``; None where it does not."""
        return [None] * len(self.indices)

    def judged(self, maps: NDArray[np.float32]) -> tuple[NDArray[Any], ...] | None:
        """Maps at the file's resolution beside what is true.

        Args:
            maps: ``(K, h, w)``.

        Returns:
            Maps, masks and bodies ``(N, h, w)`` of the images whose label and mask are known; None
            without any. A normal picture has an empty mask, an anomalous one may have none.
        """
        masks, body, known = self.masks, self.body.numpy(), self.labels.numpy() >= 0
        if masks is None and self.case.label == 0:
            masks = torch.zeros(body.shape, dtype=torch.bool)
        if masks is None or not known.any():
            return None
        return maps[known], masks.numpy()[known], body[known]


def _filled(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """As scipy's `binary_fill_holes`, several times as fast."""
    background, _ = label(np.pad(~body, 1, constant_values=True))
    filled: NDArray[np.bool_] = background[1:-1, 1:-1] != background[0, 0]
    return filled


class CaseLoader:
    """Reads a case (`read_case`), scales it (`ScaleBody`) and cuts it into slices (`Slicer`).

    Args:
        image_size: side of the network's input, or (H, W), in pixels.
        axis: anatomical axis along which volumes are cut.
        intensity: how values become [0, 1]; see `transforms.intensity.ScaleBody`.
        slice_range: first and last slice to use, both included; None uses all.
        min_body_fraction: smallest share of a slice that the body must fill.
        min_lesion_pixels: lesion pixels from which a slice is anomalous.
        normal_margin: slices between a normal slice and the nearest lesion.
        channels: number of channels expected; None accepts any.
        volumetric: whether files must be volumes (True) or pictures (False); None accepts both.
        n4: whether MR volumes are corrected for uneven brightness first.
        resample: whether modalities of one case on other grids are resampled onto the first one's.
        patch_size: (slices, height, width) of the patches that the network sees of a volume; None
            for single slices.
        overlap: share of a patch that the next one repeats, in [0, 1).
        with_baselines: whether to compute the trivial scores too, for evaluation.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 128,
        axis: SliceAxis = "axial",
        intensity: ScaleMethod | str = "auto",
        slice_range: Sequence[int] | None = None,
        min_body_fraction: float = 0.1,
        min_lesion_pixels: int = 20,
        normal_margin: int = 0,
        channels: int | None = None,
        volumetric: bool | None = None,
        n4: bool = False,
        resample: bool = False,
        patch_size: Sequence[int] | None = None,
        overlap: float = 0.5,
        with_baselines: bool = False,
    ) -> None:
        self.slicer = Slicer(axis, image_size)
        self.scale = _scale(intensity, n4)
        self.resample = bool(resample)
        self.slice_range = _checked_range(slice_range)
        self.min_body_fraction = float(min_body_fraction)
        self.min_lesion_pixels = int(min_lesion_pixels)
        self.normal_margin = int(normal_margin)
        self.channels = channels
        self.patch_size = checked_patch_size(patch_size, self.slicer.image_size, volumetric)
        self.overlap = float(overlap)
        self.volumetric = volumetric if self.patch_size is None else True
        self.with_baselines = with_baselines

    @property
    def parameters(self) -> dict[str, Any]:
        """Plain values from which ``CaseLoader(**parameters)`` rebuilds this loader."""
        patches = {"patch_size": list(self.patch_size or ()), "overlap": self.overlap}
        return {
            "image_size": list(self.slicer.image_size),
            "axis": self.slicer.axis,
            "intensity": self.scale.method,
            "slice_range": None if self.slice_range is None else list(self.slice_range),
            "min_body_fraction": self.min_body_fraction,
            "min_lesion_pixels": self.min_lesion_pixels,
            "normal_margin": self.normal_margin,
            "channels": self.channels,
            "volumetric": self.volumetric,
            "n4": self.scale.n4,
            "resample": self.resample,
            **(patches if self.patch_size else {}),
        }

    def windows(self, length: int) -> list[tuple[slice, slice, slice]]:
        """Where patches lie in so many slices; each a whole slice without a patch size."""
        size = self.patch_size or (1, *self.slicer.image_size)
        return windows(length, self.slicer.image_size, size, self.overlap)

    @property
    def normal_told(self) -> str:
        """What a normal slice is, for messages."""
        return (
            f"A slice is normal when it shows no lesion, lies in slice_range {self.slice_range} "
            f"and the body fills at least {self.min_body_fraction:.0%} of it; loosen these options."
        )

    def __call__(self, case: Case) -> CaseSample:
        """Reads and cuts one case.

        Raises:
            InputError: when a file cannot be used.
        """
        if is_signal(case.images[0]):
            raise InputError(
                f"{case.images[0]}: expected an image, found a signal. Train on signals with "
                "'aeflow train', or with signals.json laid over train.json."
            )
        raw = read_case(
            case.images, case.channels, resample=self.resample, series_uid=case.series_uid
        )
        self._check_kind(raw, case)
        raw = self._with_channels(raw, case)
        scaled = self.scale(raw)
        geometry = self.slicer.geometry(raw)
        mask = None if case.mask is None else read_mask(case.mask, raw)
        masks = None if mask is None else self.slicer.native(mask)[:, 0].bool()
        body = self._body(raw, geometry)
        indices = torch.zeros(1, dtype=torch.long)
        if raw.ndim == 4:
            indices = select_slices(body, self.min_body_fraction, self.slice_range)
        labels = self._labels(case, masks, geometry.count)
        images = self.slicer(scaled, indices=indices if raw.ndim == 4 else None).images
        context = {"body": body[indices, None]}
        if case.region is not None:
            context["region"] = self.slicer.native(read_mask(case.region, raw))[indices].bool()
        place = {"place": body_place(body, geometry)[indices]} if raw.ndim == 4 else {}
        return CaseSample(
            case=case,
            images=images,
            indices=indices,
            labels=labels[indices],
            masks=None if masks is None else masks[indices],
            geometry=geometry,
            body=body[indices],
            context={n: to_canvas(v, geometry, "nearest") for n, v in context.items()} | place,
            baselines=(
                slice_baselines(self.slicer.native(raw), body if raw.ndim == 4 else None, indices)
                if self.with_baselines
                else None
            ),
            header={key: raw.meta[key] for key in KEPT_HEADER if key in raw.meta},
        )

    def _check_kind(self, raw: Tensor, case: Case) -> None:
        if self.volumetric is not None and self.volumetric != (raw.ndim == 4):
            kinds = ("a volume", "a picture")
            wanted, found = kinds if self.volumetric else kinds[::-1]
            raise InputError(
                f"{case.images[0]}: expected {wanted} like the training cases, found {found}. "
                "Use a model that was trained on files of this kind."
            )

    def _with_channels(self, raw: Any, case: Case) -> Any:
        found = len(raw)
        if self.channels is None or found == self.channels:
            return raw
        if found == 1 and raw.ndim == 3:  # a grey picture among colour ones
            return raw.repeat(self.channels, *[1] * (raw.ndim - 1))
        raise InputError(
            f"{case.images[0]}: expected {counted(self.channels, 'channel')}, found {found}. "
            f"Export all files alike, or train a model of so many (--channels {found})."
        )

    def _body(self, raw: Any, geometry: SliceGeometry) -> Tensor:
        """Where a volume shows the body, in any channel; the whole of a picture, ``(N, h, w)``."""
        if raw.ndim == 3:
            return torch.ones(1, *geometry.native_shape, dtype=torch.bool)
        return self.slicer.native(MetaTensor(body_mask(raw), meta=raw.meta)).any(dim=1)

    def _labels(self, case: Case, masks: Tensor | None, count: int) -> Tensor:
        if masks is not None and (count > 1 or case.label is None):
            return slice_labels(masks, self.min_lesion_pixels, self.normal_margin)
        # A volume known to be anomalous, without a mask, says nothing of its single slices.
        label = case.label if case.label == 0 or count == 1 else None
        return torch.full((count,), -1 if label is None else label, dtype=torch.int8)


def require_slices(sample: CaseSample) -> CaseSample:
    """The sample itself, if it has anything to score.

    Raises:
        InputError: for a volume of which no slice was chosen.
    """
    if not len(sample.images):
        raise InputError(
            f"{sample.case.images[0]}: no slice shows enough of the body to be scored. Loosen "
            "min_body_fraction and slice_range, with which the model was trained, or leave "
            "this case out."
        )
    return sample


def _scale(intensity: str, n4: bool) -> ScaleBody:
    try:
        return ScaleBody(intensity, n4=n4)
    except InputError as error:  # the transform calls it by another name than the option
        raise InputError(str(error).replace("method:", "intensity:", 1)) from error


def _checked_range(slice_range: Sequence[int] | None) -> tuple[int, int] | None:
    if slice_range is None:
        return None
    if not isinstance(slice_range, Sequence) or len(slice_range) != 2:
        raise InputError(
            f"slice_range: expected the first and the last slice, e.g. [25,130], found "
            f"{slice_range}."
        )
    return int(slice_range[0]), int(slice_range[1])

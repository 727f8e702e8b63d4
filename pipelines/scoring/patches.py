"""Volumes seen as volumes: patches in a sliding window, their evidence blended on the slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor

from networks import AnomalyScorer, Detector, Evidence, ImageScores, WeightedFusion
from networks.compiled import Compiled
from networks.spatial import resized
from pipelines.scoring.packing import SLICES_NDIM, filled, packed, unpacked
from transforms.errors import InputError

Anomalies = Callable[..., tuple[Tensor, Tensor]]
"""Makes anomalies as `transforms.synthetic.SyntheticAnomalies` does."""

VOLUME_DIMS = 3

AT_ONCE = 4
"""Patches that go through the network at once."""


class PatchScorer(AnomalyScorer):
    """Scores the slices of a volume by a detector that sees patches of volumes.

    A batch holds the slices of one volume in their order. The raw evidence about its patches is
    brought to the slices' pixels and blended, with a Gaussian's weights; all that follows is what
    it is of slices: a score of each, calibrated on slices, and a map. A value that is no map counts
    for each slice by how much its patches show of it.

    Args:
        detector: sees patches ``(B, C, D, h, w)``.
        fusion: see `AnomalyScorer`.
        amp: see `AnomalyScorer`.
        patch_size: (D, h, w).
        overlap: share of a patch that the next one repeats, in [0, 1).
    """

    def __init__(
        self,
        detector: Detector,
        fusion: WeightedFusion,
        amp: bool = True,
        patch_size: Sequence[int] = (16, 96, 96),
        overlap: float = 0.5,
    ) -> None:
        super().__init__(detector, fusion, amp)
        self.patch_size = tuple(patch_size)
        self.overlap = float(overlap)
        self._show: Callable[..., Evidence] = self._evidence

    def accelerate(self) -> None:
        """Compiles what follows the encoder as far as it is of patches, `AT_ONCE` at a time."""
        if not self.accelerated:
            self._show = Compiled(self._evidence)

    @property
    def accelerated(self) -> bool:
        """Whether it is compiled."""
        return isinstance(self._show, Compiled)

    def evidence(self, image: Tensor, context: Mapping[str, Tensor] | None = None) -> Evidence:
        """The raw evidence about the slices ``(K, C, H, W)`` of a volume, or about patches.

        It lies where the slices do, wherever the network is; memory beside that for a few patches
        is all that is taken there.
        """
        if image.ndim > SLICES_NDIM:
            return super().evidence(image, context)
        names: list[tuple[str, str]] = []

        def of_patches(patches: Tensor) -> Tensor:
            found = self._of_patches(patches)
            names[:] = found
            return torch.cat(list(found.values()), dim=1)

        volume = packed(image, context or {}, self.detector).movedim(0, 1)[None]
        blended: Any = sliding_window_inference(
            volume, self.patch_size, AT_ONCE, of_patches, self.overlap, "gaussian",
            padding_mode="replicate", sw_device=self.calibration.threshold.device,
        )  # fmt: skip
        slices = blended[0].movedim(0, 1)
        found: dict[str, dict[str, Tensor]] = {"maps": {}, "values": {}, "reconstruction": {}}
        for channel, (kind, name) in enumerate(names):
            last = None if kind == "reconstruction" else channel + 1
            found[kind][name] = slices[:, channel:last]
        values = {name: one.mean(dim=(1, 2, 3)) for name, one in found["values"].items()}
        return Evidence(found["maps"], values, found["reconstruction"].get(""))

    def _of_patches(self, patches: Tensor) -> dict[tuple[str, str], Tensor]:
        """All evidence about patches ``(B, C', D, h, w)`` on their voxels, by kind and name."""
        size = AT_ONCE if self.accelerated else 1
        patch, own = unpacked(filled(patches, size), self.detector)
        evidence = self._seen(self._show, patch, own)
        kinds = {"maps": evidence.maps, "values": evidence.values}
        found = {(k, n): _spread(v, patch) for k, own in kinds.items() for n, v in own.items()}
        if evidence.reconstruction is not None:
            found["reconstruction", ""] = evidence.reconstruction
        return {name: value[: len(patches)].float() for name, value in found.items()}

    def score_image(
        self, image: Tensor, context: Mapping[str, Tensor] | None = None
    ) -> ImageScores:
        """Scores the slices of a volume, or patches; see `AnomalyScorer.score_image`."""
        if image.ndim > SLICES_NDIM:
            return super().score_image(image, context)
        return self.judged(self.evidence(image, context), image)

    def in_batches(
        self, image: Tensor, context: Mapping[str, Tensor] | None, size: int
    ) -> Iterator[ImageScores]:
        """As `score_image`, a few slices at a time, where the network is."""
        evidence = self.evidence(image, context)
        device = self.calibration.threshold.device
        for start in range(0, len(image), size):
            where = slice(start, start + size)
            maps, values = (
                {name: value[where].to(device) for name, value in one.items()}
                for one in (evidence.maps, evidence.values)
            )
            restored = evidence.reconstruction
            own = None if restored is None else restored[where].to(device)
            yield self.judged(Evidence(maps, values, own), image[where])


def _spread(value: Tensor, patch: Tensor) -> Tensor:
    """A map ``(B, 1, *s)``, or a value ``(B,)``, on the voxels of patches."""
    if value.ndim == 1:
        return value.view(-1, *[1] * (patch.ndim - 1)).expand(-1, 1, *patch.shape[2:])
    return resized(value, patch.shape[2:])


def in_volumes(scorer: AnomalyScorer, synthetic: Anomalies) -> Anomalies:
    """What makes anomalies in a batch as the scorer sees it: in slices, or throughout a volume."""
    if not isinstance(scorer, PatchScorer):
        return synthetic

    def made(
        image: Tensor, body: Tensor, region: Tensor, source: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        volumes = (one.movedim(0, 1)[None] for one in (image, body, region))
        changed, mask = synthetic(*volumes, source)
        return changed[0].movedim(1, 0), mask[0].movedim(1, 0)

    return made


def make_scorer(
    detector: Detector,
    fusion: WeightedFusion,
    amp: bool = True,
    patch_size: Sequence[int] | None = None,
    overlap: float = 0.5,
) -> AnomalyScorer:
    """The scorer of a detector: of slices and pictures, or with a patch size of volumes.

    Raises:
        InputError: when the detector does not see what it is to be shown.
    """
    if (detector.spatial_dims == VOLUME_DIMS) != (patch_size is not None):
        raise InputError(
            f"patch_size: expected one for a method of spatial_dims {VOLUME_DIMS}, and none for "
            f"others; found {patch_size}, and {detector.spatial_dims} for {detector.name!r}. Set "
            "both, or leave both out."
        )
    if patch_size is None:
        return AnomalyScorer(detector, fusion, amp)
    return PatchScorer(detector, fusion, amp, patch_size, overlap)

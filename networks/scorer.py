"""From an image to an anomaly map and a calibrated score, whatever the method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .calibration import Calibration
from .compiled import Compiled
from .detectors import Detector, Evidence, Inputs
from .fusion import Fusion
from .pooling import bounded, top_mean
from .precision import scoring_type
from .recorded import Recorded, waits
from .spatial import resized, size_of


class ImageScores(NamedTuple):
    """Scores of a batch, in standard deviations above held-out normal images.

    Attributes:
        score: the fused image score, ``(B,)``.
        parts: the score of each part of the detector, ``(B,)``.
        percentile: rank of ``score`` among held-out normals, in [0, 100], ``(B,)``.
        flagged: whether ``score`` exceeds the threshold, ``(B,)`` bool.
        anomaly_map: fused map on the image's pixels, in standard deviations above the pixels of
            held-out normal images, ``(B, 1, *s)``.
        maps: the map of each part that has one, ``(B, 1, *s)``.
        reconstruction: ``(B, C, *s)`` in the units of the input image; None without one.
        members: the score of each member of an ensemble, each in standard deviations above its own
            scores of held-out normal images, ``(B, M)``; None without any.
        std_map: standard deviation of the members' fused maps, ``(B, 1, *s)``.
    """

    score: Tensor
    parts: dict[str, Tensor]
    percentile: Tensor
    flagged: Tensor
    anomaly_map: Tensor
    maps: dict[str, Tensor]
    reconstruction: Tensor | None
    members: Tensor | None = None
    std_map: Tensor | None = None


Found = TypeVar("Found", Evidence, ImageScores)


class AnomalyScorer(nn.Module):
    """Wraps a detector, its calibration and the fusion of its parts.

    The module returns one tensor, the anomaly map, so that it can be verified, exported and
    served; `score_image` returns the image scores with their parts. All that calibration learns
    lives in registered buffers, so that the state dict carries it. The score of an image does not
    depend on the batch it comes in.

    Args:
        detector: the method.
        fusion: how its parts become one score and one map.
        amp: whether the detector runs in the `scoring_type` of the device; a batch about which
            that says nothing finite is scored again in 32 bits.

    Attributes:
        parts: the detector's parts by name.
        map_names: names of all maps of the parts.
        recorded: what `recording` runs; None outside of it.

    Raises:
        ArgumentError: when the fusion cannot combine the detector's parts.
    """

    def __init__(self, detector: Detector, fusion: Fusion, amp: bool = True) -> None:
        super().__init__()
        self.detector = detector
        self.fusion = fusion
        self.amp = bool(amp)
        self._judge: Callable[..., ImageScores] = self._judged
        self.recorded: Recorded | None = None
        self.reset()

    def reset(self) -> None:
        """Takes the detector's parts as they are now, which its training may have decided.

        Raises:
            ArgumentError: when the fusion cannot combine them.
        """
        parts = self.detector.parts
        self.parts = {part.name: part for part in parts}
        self.map_names = tuple(dict.fromkeys(name for p in parts for name in p.maps))
        self.fusion.attach(parts)
        members = self.detector.members
        self.calibration = Calibration(self.map_names, list(self.parts), members)

    @property
    def calibrated(self) -> bool:
        """Whether the calibration on held-out normals has been done."""
        return self.calibration.done

    def forward(self, image: Tensor, context: Mapping[str, Tensor] | None = None) -> Tensor:
        """Computes the anomaly map.

        Args:
            image: ``(B, C, *s)`` in [0, 1].
            context: what the detector needs beside it.

        Returns:
            The fused anomaly map ``(B, 1, *s)``, in standard deviations above the pixels of
            held-out normal images.
        """
        return self.fuse_maps(self.standardized_maps(self.evidence(image, context), image))

    def accelerate(self) -> None:
        """Compiles all that follows the encoder; batches are to be of one size from now on."""
        if not self.accelerated:
            self._judge = Compiled(self._judged)

    @property
    def accelerated(self) -> bool:
        """Whether it is compiled."""
        return isinstance(self._judge, Compiled)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """On a GPU, `score_image` launches the work on a batch at once meanwhile, see `Recorded`.

        The weights are to stay as and where they are. What is found is overwritten by the next
        batch. A method that waits for the GPU, or searches, runs as it is.
        """
        device = self.calibration.threshold.device
        if device.type == "cuda" and self.detector.exportable and not self.accelerated:
            self.recorded = Recorded(self._score, device)
        try:
            yield
        finally:
            self.recorded = None

    def evidence(self, image: Tensor, context: Mapping[str, Tensor] | None = None) -> Evidence:
        """The raw evidence about a batch ``(B, C, *s)`` in [0, 1]."""
        return self._seen(self._evidence, image, context)

    def _seen(
        self,
        judge: Callable[..., Found],
        image: Tensor,
        context: Mapping[str, Tensor] | None,
        found: Found | None = None,
    ) -> Found:
        """What follows the encoder, unless it is found; in 32 bits where fewer are too few."""
        inputs, dtype = Inputs(image, context or {}), self._dtype(image)
        if found is None:
            found = judge(*self._encoded(inputs, dtype))
        if dtype == torch.float32 or _finite(found):
            return found
        plain = judge.plain if isinstance(judge, Compiled) else judge
        return plain(*self._encoded(inputs, torch.float32))

    def _dtype(self, image: Tensor) -> torch.dtype:
        return scoring_type(image.device) if self.amp else torch.float32

    def _encoded(self, inputs: Inputs, dtype: torch.dtype) -> tuple[Inputs, Any, torch.dtype]:
        with _precision(inputs.image.device, dtype):
            return inputs, self.detector.encode(inputs), dtype

    def _evidence(self, inputs: Inputs, features: Any, dtype: torch.dtype) -> Evidence:
        with _precision(inputs.image.device, dtype):
            output = self.detector(inputs, features)
        return self.detector.evidence(output, inputs)

    def standardized_maps(self, evidence: Evidence, image: Tensor) -> dict[str, Tensor]:
        """Standardises each map and brings it to the size of the image ``(B, C, *s)``."""
        size = size_of(image)
        return {
            name: resized(self.calibration.maps(name, evidence.maps[name]), size)
            for name in self.map_names
        }

    def part_map(self, name: str, maps: Mapping[str, Tensor]) -> Tensor:
        """The map of a part ``(B, 1, *s)``: the mean of those of its standardised maps given."""
        return torch.stack([maps[n] for n in self.parts[name].maps if n in maps]).mean(dim=0)

    def bounded_maps(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The maps of the parts ``(B, 1, *s)`` as they are fused, see `bounded`."""
        mapped = [name for name, part in self.parts.items() if part.maps]
        return {name: bounded(self.part_map(name, maps)) for name in mapped}

    def fuse_maps(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Combines standardised maps into one ``(B, 1, *s)``."""
        return self.fusion.map(self.bounded_maps(maps))

    def raw_parts(self, evidence: Evidence, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Image-level evidence ``(B,)`` of each part, before its standardisation.

        Args:
            evidence: of a batch.
            maps: its standardised maps.
        """
        return {
            name: evidence.values[name]
            if part.pool is None
            else top_mean(
                self.part_map(name, maps) if part.maps else self.fuse_maps(maps), part.pool
            )
            for name, part in self.parts.items()
        }

    def standardized_parts(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Image-level evidence ``(B,)`` in standard deviations above held-out normal images."""
        return {name: self.calibration.parts(name, value) for name, value in raw.items()}

    def score_image(
        self, image: Tensor, context: Mapping[str, Tensor] | None = None
    ) -> ImageScores:
        """Scores a batch of images.

        Args:
            image: ``(B, C, *s)`` in [0, 1].
            context: what the detector needs beside it.

        Returns:
            The scores with their parts and maps.
        """
        given = {"": image, **(context or {})}
        if self.recorded and self.recorded.records(given) and waits(self._score, given):
            self.recorded = None
        found: ImageScores | None = self.recorded(given) if self.recorded else None
        return self._seen(self._judge, image, context, found)

    def _score(self, given: Mapping[str, Tensor]) -> ImageScores:
        """The same of a batch (under "") and its context, be it finite or not."""
        context = {name: value for name, value in given.items() if name}
        return self._judged(*self._encoded(Inputs(given[""], context), self._dtype(given[""])))

    def _judged(self, inputs: Inputs, features: Any, dtype: torch.dtype) -> ImageScores:
        return self.judged(self._evidence(inputs, features, dtype), inputs.image)

    def judged(self, evidence: Evidence, image: Tensor) -> ImageScores:
        """What the raw evidence about a batch says of it, see `score_image`."""
        maps = self.standardized_maps(evidence, image)
        parts = self.standardized_parts(self.raw_parts(evidence, maps))
        score = self.calibration.standardize(self.fusion.score(evidence.values, parts))
        alone = self.of_members(evidence, maps)
        std_map = (
            torch.stack([self.fuse_maps(own) for _, own in alone]).std(dim=0) if alone else None
        )
        return ImageScores(
            score=score,
            parts=parts,
            percentile=self.percentile(score),
            flagged=score > self.calibration.threshold,
            anomaly_map=self.fuse_maps(maps),
            maps={n: self.part_map(n, maps) for n, part in self.parts.items() if part.maps},
            reconstruction=evidence.reconstruction,
            members=self.calibration.of_members(self.fused_members(alone)) if alone else None,
            std_map=std_map,
        )

    def of_members(
        self, evidence: Evidence, maps: Mapping[str, Tensor]
    ) -> list[tuple[Evidence, dict[str, Tensor]]]:
        """What each member of an ensemble says, without the others: its evidence and maps.

        Args:
            evidence: of a batch, by all members.
            maps: its standardised maps.
        """
        found = []
        for own in self.detector.members:
            others = tuple(one for one in self.detector.members if one != own)
            kept = {name: value for name, value in maps.items() if not name.endswith(others)}
            values = {n: evidence.values.get(f"{n}{own}", v) for n, v in evidence.values.items()}
            found.append((evidence._replace(values=values), kept))
        return found

    def fused_members(self, alone: list[tuple[Evidence, dict[str, Tensor]]]) -> Tensor:
        """The fused score of each member ``(B, M)``, before its standardisation."""
        return torch.stack(
            [
                self.fusion.score(one.values, self.standardized_parts(self.raw_parts(one, maps)))
                for one, maps in alone
            ],
            dim=1,
        )

    def percentile(self, score: Tensor) -> Tensor:
        """Rank of scores ``(B,)`` among held-out normal images, in [0, 100]."""
        return self.calibration.percentile(score)


def _finite(found: Evidence | ImageScores) -> bool:
    if isinstance(found, Evidence):
        told = [*found.maps.values(), *found.values.values()]
    else:
        told = [found.score, found.anomaly_map]
    return bool(torch.stack([one.isfinite().all() for one in told]).all())  # waits once


def _precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Autocast, or nothing at all, which an export needs."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)

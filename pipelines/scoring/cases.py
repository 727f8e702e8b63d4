"""Cases to scores and maps: the same path for evaluation, inference and serving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.data.meta_tensor import MetaTensor
from monai.data.thread_buffer import ThreadDataLoader
from monai.engines import SupervisedEvaluator
from monai.inferers.inferer import Inferer
from numpy.typing import NDArray
from torch import Tensor

from networks import AnomalyScorer, ImageScores, Part, part_column
from networks.calibration import Calibration
from networks.scope import InScope, Scope
from pipelines.common import compiling_pays, require_part
from pipelines.data import CaseSample, FailedCase
from pipelines.scoring.packing import filled, unpacked
from pipelines.scoring.patches import PatchScorer
from pipelines.scoring.volume import CaseReference, CaseScore, score_volume
from transforms.errors import InputError
from transforms.readers import all_finite

REPAID_BY_SCORING = 500_000
"""Images over which compiling a scorer for a minute is repaid, on an H100 and at 256 pixels."""

USUAL_SLICES = 100
"""Slices of a volume, before it is read."""


@dataclass(frozen=True)
class ScoredCase:
    """A case with its scores and maps.

    Attributes:
        sample: the case as it was read.
        scores: the slices' ``score``, ``percentile`` and ``p_value``, of an ensemble their
            ``score_std`` too, ``(K,)``.
        parts: per part of the detector the slices' scores, ``(K,)``.
        flagged: ``(K,)`` bool.
        anomaly_map: at the file's resolution, ``(K, h, w)`` float32.
        canvas_maps: the fused map and the parts' on their canvas, ``(K, H, W)`` each.
        reconstruction: on the canvas, ``(K, C, H, W)``; None without one.
        case_score: score of the whole case.
        baselines: the detector's parts that are trivial scores, by the baseline's name.
        std_map: how far the members of an ensemble disagree, at the file's resolution,
            ``(K, h, w)`` float32; None without any.
    """

    sample: CaseSample
    scores: dict[str, NDArray[np.float64]]
    parts: dict[str, NDArray[np.float64]]
    flagged: NDArray[np.bool_]
    anomaly_map: NDArray[np.float32]
    canvas_maps: dict[str, Tensor]
    reconstruction: Tensor | None
    case_score: CaseScore
    baselines: Mapping[str, Part] = field(default_factory=dict)
    std_map: NDArray[np.float32] | None = None

    def part_map(self, part: Part) -> NDArray[np.float32]:
        """The map of a part at the file's resolution, ``(K, h, w)``."""
        return self.sample.native(self.canvas_maps[f"{MAP}{part.name}"]).numpy()

    @cached_property
    def grid_map(self) -> MetaTensor:
        """The map on the grid of the input, in standard deviations.

        Returns:
            float32 ``(X, Y, Z)`` with the volume's affine, ``(H, W)`` for a picture, or ``(T,)``
            for a signal. In volumes 0 stands outside the outline of the body and in slices that
            were not scored; in signals NaN stands in gaps and where no window was scored.
        """
        return self.on_grid(self.anomaly_map)

    def on_grid(self, slices: NDArray[np.float32]) -> MetaTensor:
        """A map of the slices ``(K, h, w)`` on the grid of the input, see `grid_map`."""
        return self.sample.on_grid(torch.from_numpy(slices))


class CaseEvaluator(SupervisedEvaluator):
    """Scores cases, a few slices at a time.

    The iteration takes a list of `CaseSample` and `FailedCase` and gives ``{"cases":
    [ScoredCase, ...], "failures": [FailedCase, ...]}``.

    Args:
        scorer: the calibrated scorer.
        inferer: runs it over slices; by default a `ScoreSlices`.
        reference: scores of held-out normal volumes; a model without has none.
        scope: what the model was made for; None for unknown.
        compiling: when to compile the scorer, see `compiling_pays`; unless never, a GPU records
            its work otherwise, see `AnomalyScorer.recording`.
        **kwargs: the arguments of `SupervisedEvaluator`, but for ``network``.

    Raises:
        InputError: for another scorer than an `AnomalyScorer`.
    """

    def __init__(
        self,
        scorer: AnomalyScorer,
        inferer: ScoreSlices | None = None,
        reference: CaseReference | None = None,
        scope: Scope | None = None,
        compiling: str = "never",
        **kwargs: Any,
    ) -> None:
        require_part("network_def", scorer, AnomalyScorer)
        inferer = inferer or ScoreSlices()
        super().__init__(network=scorer, inferer=inferer, decollate=False, **kwargs)
        self.scorer = scorer
        self.reference = reference
        self.scope = scope
        self.compiling = compiling
        self.add_event_handler(Events.STARTED, lambda engine: engine.scorer.to(engine.state.device))

    def score(self, dataloader: ThreadDataLoader) -> None:
        """Scores the cases of a loader, in place of those that the engine was made for."""
        self.data_loader = dataloader
        self.state.epoch_length = len(dataloader)
        dataset: Any = dataloader.dataset
        volumetric = getattr(dataset.read, "volumetric", False)
        images = len(dataset) * (USUAL_SLICES if volumetric else 1)
        if compiling_pays(self.compiling, self.state.device, images, REPAID_BY_SCORING):
            self.scorer.accelerate()
        with nullcontext() if self.compiling == "never" else self.scorer.recording():
            self.run()

    def _iteration(  # type: ignore[override]
        self, engine: Any, batchdata: Sequence[CaseSample | FailedCase]
    ) -> dict[str, Any]:
        samples = [one for one in batchdata if isinstance(one, CaseSample)]
        failures = [one for one in batchdata if isinstance(one, FailedCase)]
        device = engine.state.device
        with engine.mode(engine.network), torch.no_grad():
            cases = score_cases(
                engine.scorer, samples, engine.inferer, device, engine.reference, engine.scope
            )
        return {"cases": cases, "failures": failures}


def score_cases(
    scorer: AnomalyScorer,
    samples: Sequence[CaseSample],
    inferer: ScoreSlices,
    device: torch.device | str,
    reference: CaseReference | None = None,
    scope: Scope | None = None,
) -> list[ScoredCase]:
    """Scores cases whose slices share batches.

    Args:
        scorer: the scorer, in evaluation mode, on the device.
        samples: the cases.
        inferer: runs the scorer over their slices.
        device: where to compute.
        reference: scores of held-out normal volumes.
        scope: what the model was made for.

    Raises:
        InputError: if a score or a map is not finite.
    """
    if not samples:
        return []
    if isinstance(scorer, PatchScorer) and len(samples) > 1:  # a batch is one volume
        alone = [[sample] for sample in samples]
        return [score_cases(scorer, a, inferer, device, reference, scope)[0] for a in alone]
    images = torch.cat([sample.images for sample in samples])
    context = {
        name: torch.cat([sample.context[name] for sample in samples])
        for name in scorer.detector.needs
    }
    scored = inferer(images, scorer, context, device)
    if not _finite(scored):
        raise InputError(
            f"the model: expected finite scores, found others for {samples[0].case.name} or what "
            "was scored with it. Its weights are damaged, or its training diverged: copy it "
            "again, or train anew with a smaller --learning_rate."
        )
    known = None if scope is None else scope.to(device)(images)
    limits = scorer.calibration.limits
    ends = np.cumsum([len(sample.images) for sample in samples]).tolist()
    places = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return [
        scored_case(sample, scored, where, scorer, limits, reference, known and known.of(where))
        for sample, where in zip(samples, places, strict=True)
    ]


MAP = "map_"
"""Before the names of the parts' maps in what `ScoreSlices` gives."""

STD_MAP = f"{MAP}std"
"""Name there of how far the members of an ensemble disagree."""

SERVED_NDIM = 5
"""Axes of a case's slices as servers of bundles give them."""


def score_columns(scorer: AnomalyScorer) -> tuple[str, ...]:
    """The columns of a scorer's scores: the score, its parts, its percentile and p-value."""
    return "score", *(part_column(name) for name in scorer.parts), "percentile", "p_value"


ON_GPU = 4
"""Times as many slices that a GPU scores at once: nothing is kept for gradients there."""


class ScoreSlices(Inferer):
    """Scores slices a few at a time.

    Args:
        batch_size: slices that go through the network at once; on a GPU, whose work takes the host
            longer to launch than to do, `ON_GPU` times as many unless the network is compiled.
    """

    def __init__(self, batch_size: int = 32) -> None:
        self.batch_size = int(batch_size)

    def __call__(  # type: ignore[override]
        self,
        inputs: Tensor,
        network: AnomalyScorer,
        context: Mapping[str, Tensor] | None = None,
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Scores slices ``(N, C, H, W)``.

        Args:
            inputs: in [0, 1]; or ``(1, N, C', H, W)``, as servers of bundles give a case, with its
                context `packed`.
            network: the scorer, on the device.
            context: what the detector needs beside the images, ``(N, ...)`` each.
            device: where to compute; None for where the inputs are.

        Returns:
            On the CPU: the `score_columns` and ``flagged`` ``(N,)``, ``anomaly_map`` and the
            parts' maps ``(N, H, W)`` under ``map_<name>``; ``reconstruction`` ``(N, C, H, W)`` if
            there is one; of an ensemble ``members`` ``(N, M)`` and ``map_std``. A server gets
            its leading axis of 1 back, and the network's ``quantiles``.
        """
        device = device or inputs.device
        images = inputs
        if inputs.ndim == SERVED_NDIM:
            images, context = unpacked(inputs[0], network.detector)
        scored: dict[str, Tensor] = {}
        done = 0
        for columns in self._scored(images, context or {}, network, device):
            where = slice(done, done + len(columns["score"]))
            done = where.stop
            for name, value in columns.items():
                if name not in scored:  # pinned, a GPU writes there by itself
                    shape = (len(images), *value.shape[1:])
                    scored[name] = torch.empty(shape, dtype=value.dtype, pin_memory=value.is_cuda)
                scored[name][where].copy_(value, non_blocking=True)
        if network.calibration.threshold.is_cuda:
            torch.cuda.current_stream(network.calibration.threshold.device).synchronize()
        if inputs.ndim != SERVED_NDIM:
            return scored
        scored["quantiles"] = network.calibration.quantiles.cpu()
        return {name: value[None] for name, value in scored.items()}

    def _scored(
        self,
        images: Tensor,
        context: Mapping[str, Tensor],
        network: AnomalyScorer,
        device: torch.device | str,
    ) -> Iterator[dict[str, Tensor]]:
        """The columns of each batch."""
        if isinstance(network, PatchScorer):
            for scores in network.in_batches(images, context, self.batch_size):
                yield _columns(scores, network.calibration, len(scores.score))
            return
        size = self.batch_size if network.accelerated or network.recorded else 1
        times = 1 if network.accelerated or torch.device(device).type != "cuda" else ON_GPU
        at_once = times * self.batch_size
        for start in range(0, len(images), at_once):
            where = slice(start, start + at_once)
            own = {"": images, **context}
            around = {name: filled(v[where], size).to(device) for name, v in own.items()}
            batch, count = around.pop(""), len(images[where])
            yield _columns(network.score_image(batch, around), network.calibration, count)


def _finite(scored: Mapping[str, Tensor]) -> bool:
    return all_finite(scored["score"]) and all_finite(scored["anomaly_map"])


def _columns(found: ImageScores, calibration: Calibration, count: int) -> dict[str, Tensor]:
    """What is told of the first `count` images of a batch."""
    values = {name: getattr(found, name) for name in ("score", "percentile", "flagged")}
    values["p_value"] = calibration.p_value(found.score)
    values |= {part_column(name): value for name, value in found.parts.items()}
    values["anomaly_map"] = found.anomaly_map[:, 0]
    values |= {f"{MAP}{name}": value[:, 0] for name, value in found.maps.items()}
    if found.reconstruction is not None:
        values["reconstruction"] = found.reconstruction
    if found.members is not None and found.std_map is not None:
        values |= {"members": found.members, STD_MAP: found.std_map[:, 0]}
    return {name: value[:count] for name, value in values.items()}


def scored_case(
    sample: CaseSample,
    scored: Mapping[str, Tensor],
    where: slice,
    scorer: AnomalyScorer,
    limits: Mapping[str, Any],
    reference: CaseReference | None,
    in_scope: InScope | None = None,
) -> ScoredCase:
    """One case out of slices that were scored together.

    Args:
        sample: the case.
        scored: what `ScoreSlices` gave for the slices of all cases.
        where: the slices of this one.
        scorer: the scorer, for its parts.
        limits: of its calibration.
        reference: scores of held-out normal volumes.
        in_scope: where its slices lie; None for unknown.
    """
    own = {name: value[where] for name, value in scored.items()}
    maps = {n: v for n, v in own.items() if n == "anomaly_map" or n.startswith(MAP)}
    scores = {name: own[name].double().numpy() for name in ("score", "percentile", "p_value")}
    parts = {name: own[part_column(name)].double().numpy() for name in scorer.parts}
    members = own["members"].double().numpy() if "members" in own else None
    if members is not None:
        scores["score_std"] = members.std(axis=1, ddof=1)
    flagged = own["flagged"].numpy()
    if sample.geometry.slice_axis is None:
        whole = CaseScore(
            score=float(scores["score"][0]),
            parts={name: float(values[0]) for name, values in parts.items()},
            percentile=float(scores["percentile"][0]),
            p_value=float(scores["p_value"][0]),
            flagged=bool(flagged[0]),
            score_std=None if members is None else float(scores["score_std"][0]),
            **limits,
        )
    else:
        reference = reference or CaseReference((), limits["target_fpr"])
        whole = score_volume(scores["score"], parts, reference, members)
    if in_scope is not None:
        reason = in_scope.reason()
        whole = replace(whole, in_scope=not reason, out_of_scope=reason)
    return ScoredCase(
        sample=sample,
        scores=scores,
        parts=parts,
        flagged=flagged,
        anomaly_map=sample.native(maps["anomaly_map"]).numpy(),
        canvas_maps=maps,
        reconstruction=own.get("reconstruction"),
        case_score=whole,
        baselines={part.baseline: part for part in scorer.parts.values() if part.baseline},
        std_map=sample.native(maps[STD_MAP]).numpy() if STD_MAP in maps else None,
    )

"""Cases to scores and maps: the same path for evaluation, inference and serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.data.meta_tensor import MetaTensor
from monai.data.thread_buffer import ThreadDataLoader
from monai.engines import SupervisedEvaluator
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from networks.scorer import AnomalyScorer
from pipelines.data import CaseSample, FailedCase
from pipelines.scoring.volume import CaseReference, CaseScore, score_volume
from transforms.slices import on_grid, to_native

SCORE_COLUMNS = ("score", "flow_score", "recon_score", "head_score", "percentile")


@dataclass(frozen=True)
class ScoredCase:
    """A case with its scores and maps.

    Attributes:
        sample: the case as it was read.
        scores: per column of `SCORE_COLUMNS` the slices' values ``(K,)``; no head, no column.
        flagged: ``(K,)`` bool.
        anomaly_map: at the file's resolution, ``(K, h, w)`` float32.
        canvas_maps: the fused and the part maps on the network's canvas, ``(K, H, W)`` each.
        reconstruction: on the canvas, ``(K, C, H, W)``.
        case_score: score of the whole case.
    """

    sample: CaseSample
    scores: dict[str, NDArray[np.float64]]
    flagged: NDArray[np.bool_]
    anomaly_map: NDArray[np.float32]
    canvas_maps: dict[str, Tensor]
    reconstruction: Tensor
    case_score: CaseScore

    @cached_property
    def grid_map(self) -> MetaTensor:
        """The map on the grid of the input.

        Returns:
            float32 ``(X, Y, Z)`` with the volume's affine, or ``(H, W)`` for a picture; in standard
            deviations. In volumes 0 stands outside the outline of the body and in slices that were
            not scored.
        """
        sample = self.sample
        native = torch.from_numpy(self.anomaly_map)
        if sample.body is not None:
            outlines = np.stack([binary_fill_holes(slice_) for slice_ in sample.body.numpy()])
            native = native * torch.from_numpy(outlines)
        return on_grid(native, sample.geometry, sample.indices)


class CaseEvaluator(SupervisedEvaluator):
    """Scores cases, a few slices at a time.

    The iteration takes a list of `CaseSample` and `FailedCase` and gives ``{"cases":
    [ScoredCase, ...], "failures": [FailedCase, ...]}``.

    Args:
        scorer: the calibrated scorer.
        batch_size: slices that go through the network at once.
        reference: scores of held-out normal volumes; a model without has none.
        **kwargs: the arguments of `SupervisedEvaluator`, but for ``network``.
    """

    def __init__(
        self,
        scorer: AnomalyScorer,
        batch_size: int = 32,
        reference: CaseReference | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network=scorer, decollate=False, **kwargs)
        self.scorer = scorer
        self.batch_size = int(batch_size)
        self.reference = reference
        self.add_event_handler(Events.STARTED, lambda engine: engine.scorer.to(engine.state.device))

    def score(self, dataloader: ThreadDataLoader) -> None:
        """Scores the cases of a loader, in place of those that the engine was made for."""
        self.data_loader = dataloader
        self.state.epoch_length = len(dataloader)
        self.run()

    def _iteration(  # type: ignore[override]
        self, engine: Any, batchdata: Sequence[CaseSample | FailedCase]
    ) -> dict[str, Any]:
        samples = [one for one in batchdata if isinstance(one, CaseSample)]
        failures = [one for one in batchdata if isinstance(one, FailedCase)]
        device = engine.state.device
        with engine.mode(engine.network), torch.no_grad():
            cases = score_cases(engine.scorer, samples, engine.batch_size, device, engine.reference)
        return {"cases": cases, "failures": failures}


def score_cases(
    scorer: AnomalyScorer,
    samples: Sequence[CaseSample],
    batch_size: int,
    device: torch.device | str,
    reference: CaseReference | None = None,
) -> list[ScoredCase]:
    """Scores cases whose slices share batches.

    Args:
        scorer: the scorer, in evaluation mode, on the device.
        samples: the cases.
        batch_size: slices at once.
        device: where to compute.
        reference: scores of held-out normal volumes.
    """
    if not samples:
        return []
    images = torch.cat([sample.images for sample in samples])
    scored = score_slices(scorer, images, batch_size, device)
    ends = np.cumsum([len(sample.images) for sample in samples]).tolist()
    starts = [0, *ends[:-1]]
    return [
        scored_case(sample, scored, slice(start, end), scorer, reference)
        for sample, start, end in zip(samples, starts, ends, strict=True)
    ]


def score_slices(
    scorer: AnomalyScorer, images: Tensor, batch_size: int, device: torch.device | str
) -> dict[str, Tensor]:
    """Scores slices ``(N, C, H, W)``.

    Args:
        scorer: the scorer, on the device.
        images: in [0, 1].
        batch_size: slices at once.
        device: where to compute.

    Returns:
        On the CPU: the score columns and ``flagged`` ``(N,)``, ``anomaly_map`` and the part maps
        ``(N, H, W)`` under ``map_<part>``, ``reconstruction`` ``(N, C, H, W)``.
    """
    gathered: dict[str, list[Tensor]] = {}
    for batch in images.split(batch_size):
        result = scorer.score_image(batch.to(device))
        values: dict[str, Tensor | None] = {name: getattr(result, name) for name in SCORE_COLUMNS}
        values |= {"flagged": result.flagged, "anomaly_map": result.anomaly_map[:, 0]}
        values |= {f"map_{name}": value[:, 0] for name, value in result.maps.items()}
        values["reconstruction"] = result.reconstruction
        for name, value in values.items():
            if value is not None:
                gathered.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(parts) for name, parts in gathered.items()}


def scored_case(
    sample: CaseSample,
    scored: dict[str, Tensor],
    where: slice,
    scorer: AnomalyScorer,
    reference: CaseReference | None,
) -> ScoredCase:
    """One case out of slices that were scored together.

    Args:
        sample: the case.
        scored: what `score_slices` gave for the slices of all cases.
        where: the slices of this one.
        scorer: the scorer, for its threshold.
        reference: scores of held-out normal volumes.
    """
    maps = {n: v[where] for n, v in scored.items() if n == "anomaly_map" or n.startswith("map_")}
    scores = {n: scored[n][where].double().numpy() for n in SCORE_COLUMNS if n in scored}
    flagged = scored["flagged"][where].numpy()
    if sample.geometry.slice_axis is None:
        whole = _picture_score(scores, bool(flagged[0]), scorer)
    else:
        whole = score_volume(scores, reference or CaseReference((), float(scorer.target_fpr)))
    return ScoredCase(
        sample=sample,
        scores=scores,
        flagged=flagged,
        anomaly_map=to_native(maps["anomaly_map"], sample.geometry).numpy(),
        canvas_maps=maps,
        reconstruction=scored["reconstruction"][where],
        case_score=whole,
    )


def _picture_score(
    scores: dict[str, NDArray[np.float64]], flagged: bool, scorer: AnomalyScorer
) -> CaseScore:
    values = {name: float(column[0]) for name, column in scores.items()}
    return CaseScore(
        score=values["score"],
        flow_score=values["flow_score"],
        recon_score=values["recon_score"],
        head_score=values.get("head_score"),
        percentile=values["percentile"],
        flagged=flagged,
        threshold=float(scorer.threshold),
        target_fpr=float(scorer.target_fpr),
        n_normal=int(scorer.n_normal),
    )

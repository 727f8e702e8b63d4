"""Evaluation: every case scored, compared with its labels and with trivial scores."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from numpy.typing import NDArray
from torch import Tensor

from networks.scorer import AnomalyScorer
from pipelines.datasets import CaseSample
from pipelines.examples import ExampleKeeper
from pipelines.pixel_metrics import PixelHistogram, default_edges
from transforms.slices import to_native

logger = logging.getLogger(__name__)

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
    """

    sample: CaseSample
    scores: dict[str, NDArray[np.float64]]
    flagged: NDArray[np.bool_]
    anomaly_map: NDArray[np.float32]
    canvas_maps: dict[str, Tensor]
    reconstruction: Tensor


class CaseEvaluator(SupervisedEvaluator):
    """Scores cases, a few slices at a time.

    The iteration takes a list of `CaseSample` and gives ``{"cases": [ScoredCase, ...]}``.

    Args:
        scorer: the calibrated scorer.
        batch_size: slices that go through the network at once.
        **kwargs: the arguments of `SupervisedEvaluator`, but for ``network``.
    """

    def __init__(self, scorer: AnomalyScorer, batch_size: int = 32, **kwargs: Any) -> None:
        super().__init__(network=scorer, decollate=False, **kwargs)
        self.scorer = scorer
        self.batch_size = int(batch_size)
        self.add_event_handler(Events.STARTED, lambda engine: engine.scorer.to(engine.state.device))

    def _iteration(  # type: ignore[override]
        self, engine: Any, batchdata: Sequence[CaseSample]
    ) -> dict[str, Any]:
        images = torch.cat([sample.images for sample in batchdata])
        with engine.mode(engine.network), torch.no_grad():
            scored = score_slices(engine.scorer, images, engine.batch_size, engine.state.device)
        starts = np.cumsum([0, *[len(sample.images) for sample in batchdata]])
        cases = [
            _one_case(sample, scored, slice(int(start), int(end)))
            for sample, start, end in zip(batchdata, starts[:-1], starts[1:], strict=True)
        ]
        return {"cases": cases}


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


def _one_case(sample: CaseSample, scored: dict[str, Tensor], where: slice) -> ScoredCase:
    maps = {n: v[where] for n, v in scored.items() if n == "anomaly_map" or n.startswith("map_")}
    return ScoredCase(
        sample=sample,
        scores={n: scored[n][where].double().numpy() for n in SCORE_COLUMNS if n in scored},
        flagged=scored["flagged"][where].numpy(),
        anomaly_map=to_native(maps["anomaly_map"], sample.geometry).numpy(),
        canvas_maps=maps,
        reconstruction=scored["reconstruction"][where],
    )


class ResultCollector:
    """Gathers rows, pixel histograms and examples while an engine scores cases.

    Memory does not grow with the maps: pixels go into histograms, and only a few examples are
    kept as pictures.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.pixels = PixelHistogram()
        self.baseline_pixels = PixelHistogram()
        self.examples = ExampleKeeper()

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an engine whose output holds ``cases``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)

    def _start(self, engine: Engine) -> None:
        # Only now is the calibration over that fixes the threshold.
        threshold = float(engine.network.pixel_threshold)  # type: ignore[attr-defined]
        self.rows = []
        self.pixels = PixelHistogram(default_edges(threshold=threshold))
        self.baseline_pixels = PixelHistogram()
        self.examples = ExampleKeeper()

    def _collect(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for scored in output["cases"]:
            self.rows.extend(slice_rows(scored))
            self._add_pixels(scored)
            self.examples.add(scored)

    def _add_pixels(self, scored: ScoredCase) -> None:
        sample = scored.sample
        judged = (sample.labels >= 0).numpy()
        masks = _known_masks(sample)
        if masks is None or not judged.any():
            return
        valid = (sample.raw > 0).any(dim=1).numpy() if sample.geometry.count > 1 else None
        trivial = None if sample.baselines is None else sample.baselines.intensity_map
        for histogram, maps in (
            (self.pixels, scored.anomaly_map),
            (self.baseline_pixels, trivial),
        ):
            if maps is None:
                continue
            for index in np.flatnonzero(judged):
                histogram.add(
                    sample.case.patient,
                    maps[index],
                    masks[index],
                    None if valid is None else valid[index],
                )

    def column(self, name: str) -> list[Any]:
        """One column over all rows."""
        return [row[name] for row in self.rows]


def _known_masks(sample: CaseSample) -> NDArray[np.bool_] | None:
    """Masks of the slices; a normal picture has an empty one, an anomalous one may have none."""
    if sample.masks is not None:
        return sample.masks.numpy()
    if sample.case.label == 0:
        return np.zeros((len(sample.raw), *sample.raw.shape[-2:]), dtype=bool)
    return None


def slice_rows(scored: ScoredCase) -> Iterable[dict[str, Any]]:
    """Rows of ``scores.csv`` for one case, one per slice."""
    sample = scored.sample
    baselines = sample.baselines
    for position, index in enumerate(sample.indices.tolist()):
        label = int(sample.labels[position])
        row: dict[str, Any] = {
            "case": sample.case.name,
            "patient": sample.case.patient,
            "slice": index,
            "label": "" if label < 0 else label,
        }
        row |= {name: float(values[position]) for name, values in scored.scores.items()}
        row["flagged"] = int(scored.flagged[position])
        if baselines is not None:
            row |= {name: float(values[position]) for name, values in baselines.scores.items()}
        yield row

"""Calibration: what scores and maps mean is learnt from held-out normal images alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.engines import SupervisedEvaluator
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from torch.utils.data import DataLoader

from networks.levels import levels_of, ranks
from networks.scorer import N_QUANTILES, AnomalyScorer, Parts
from pipelines.common import EngineProgress
from transforms.errors import InputError

logger = logging.getLogger(__name__)

PIXELS_PER_IMAGE = 4096
"""Evenly spaced body pixels of an image that enter the pixel threshold."""

LEAST_SCALE = 1e-6


def conformal_rank(count: int, target_fpr: float) -> int:
    """Rank, from 1, of the normal score that bounds the false-positive rate.

    With ``count`` exchangeable normal scores a new normal score exceeds the one of rank
    ``ceil((count + 1) (1 - fpr))`` with probability at most ``fpr`` (split-conformal prediction,
    Vovk et al.).

    Raises:
        InputError: when there are too few scores for the rate.

    Example:
        >>> conformal_rank(99, 0.05)
        95
    """
    if not 0.0 < target_fpr < 1.0:
        raise InputError(f"target_fpr: expected a rate between 0 and 1, found {target_fpr}.")
    # The small constant keeps 100 * 0.95 = 95.00000000000001 from counting as 96.
    rank = math.ceil((count + 1) * (1.0 - target_fpr) - 1e-9)
    if rank > count:
        needed = math.ceil(1.0 / target_fpr - 1e-9) - 1
        raise InputError(
            f"target_fpr: a false-positive rate of {target_fpr:g} needs at least {needed} held-out "
            f"normal images for calibration, found {count}. Give more normal images, a larger "
            f"calibration share in --fractions, or a larger --target_fpr."
        )
    return rank


class Calibrator:
    """Fits a scorer's buffers on held-out normal images.

    The evidence about all of them is gathered in one pass. From it come the standardisation of the
    part maps, then of the image parts, then of the score, its quantiles, the threshold at the
    target false-positive rate, the pixel threshold and the levels of the map from which severity
    bands are read.

    Args:
        scorer: the trained scorer.
        loader: batches of held-out normal images, key ``image`` ``(B, C, H, W)``.
        device: where to compute.
        target_fpr: share of normal images that may be flagged.
        pixel_fpr: share of body pixels of normal images that the pixel threshold lets through.

    Attributes:
        slice_scores: once run, the score of each image in the order of the data set, ``(N,)``.
    """

    def __init__(
        self,
        scorer: AnomalyScorer,
        loader: DataLoader[dict[str, Tensor]],
        device: torch.device | str,
        target_fpr: float = 0.05,
        pixel_fpr: float = 0.01,
    ) -> None:
        self.scorer = scorer
        self.loader = loader
        self.device = torch.device(device)
        self.target_fpr = float(target_fpr)
        self.pixel_fpr = float(pixel_fpr)
        self.slice_scores = np.empty(0)

    @property
    def dataset(self) -> Any:
        """The held-out normal images."""
        return self.loader.dataset

    def check(self) -> None:
        """Refuses too few images; called before the training, so that no work is lost.

        Raises:
            InputError: when the rate cannot be reached with the images at hand.
        """
        conformal_rank(len(self.dataset), self.target_fpr)
        if not 0.0 < self.pixel_fpr < 1.0:
            raise InputError(f"pixel_fpr: expected a rate between 0 and 1, found {self.pixel_fpr}.")

    def run(self) -> None:
        """Fits all buffers."""
        self.check()
        self.scorer.to(self.device).eval()
        gathered = self._gather()
        self._fit_maps([parts.maps for parts, _ in gathered])
        scored = [self._part_scores(parts, body) for parts, body in gathered]
        self._fit_scores(torch.cat([parts for parts, _ in scored]))
        self._fit_pixels(torch.cat([pixels for _, pixels in scored]))
        logger.info(
            "Calibrated on %d held-out normal images: threshold %.3f standard deviations for a "
            "false-positive rate of %g.",
            int(self.scorer.n_normal),
            float(self.scorer.threshold),
            self.target_fpr,
        )

    def _gather(self) -> list[tuple[Parts, Tensor]]:
        """The evidence about each batch, on the CPU, and where it shows the body."""
        gathered: list[tuple[Parts, Tensor]] = []

        def iteration(engine: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
            image = batch[Keys.IMAGE]
            with torch.no_grad():
                parts = self.scorer.parts(image.to(self.device))
            maps = {name: value.cpu() for name, value in parts.maps.items()}
            kept = parts._replace(maps=maps, reconstruction=image[:0])
            gathered.append((kept, (image > 0).any(dim=1, keepdim=True)))
            return {}

        SupervisedEvaluator(
            device=self.device,
            val_data_loader=self.loader,
            network=self.scorer,
            iteration_update=iteration,
            val_handlers=[EngineProgress("Calibrating")],
            decollate=False,
        ).run()
        return gathered

    def _fit_maps(self, maps: Sequence[Mapping[str, Tensor]]) -> None:
        for index, name in enumerate(self.scorer.map_names):
            values = [one[name].double() for one in maps]
            count = sum(value.numel() for value in values)
            mean = torch.stack([value.sum() for value in values]).sum() / count
            squares = torch.stack([value.square().sum() for value in values]).sum() / count
            self.scorer.map_mean[index] = mean
            deviation = (squares - mean.square()).clamp_min(0.0).sqrt()
            self.scorer.map_scale[index] = deviation.clamp_min(LEAST_SCALE)

    def _part_scores(self, parts: Parts, body: Tensor) -> tuple[Tensor, Tensor]:
        """Image-level evidence ``(B, 3)``, and the fused map's values at pixels of the body."""
        moved = {name: value.to(self.device) for name, value in parts.maps.items()}
        with torch.no_grad():
            maps = self.scorer.standardized_maps(parts._replace(maps=moved), body.shape[-2:])
            fused = self.scorer.fuse_maps(maps).cpu()
            scores = self.scorer.part_scores(parts, maps)
        return scores, torch.cat([_spread(m[b]) for m, b in zip(fused, body, strict=True)])

    def _fit_scores(self, parts: Tensor) -> None:
        scorer = self.scorer
        scorer.part_mean.copy_(parts.mean(dim=0))
        scorer.part_scale.copy_(_scale(parts))
        raw = scorer.raw_score(parts)
        scorer.score_mean.copy_(raw.mean())
        scorer.score_scale.copy_(_scale(raw))
        self.slice_scores = ((raw - scorer.score_mean) / scorer.score_scale).double().cpu().numpy()
        scores = ((raw - scorer.score_mean) / scorer.score_scale).sort().values
        ranks = torch.linspace(0.0, 1.0, N_QUANTILES, device=scores.device)
        scorer.quantiles.copy_(torch.quantile(scores, ranks))
        scorer.threshold.copy_(scores[conformal_rank(len(scores), self.target_fpr) - 1])
        scorer.n_normal.fill_(len(scores))
        scorer.target_fpr.fill_(self.target_fpr)

    def _fit_pixels(self, pixels: Tensor) -> None:
        ordered = pixels.sort().values
        asked = torch.tensor(self.pixel_fpr, dtype=torch.float64)
        self.scorer.pixel_threshold.copy_(ordered[ranks(asked, len(ordered))])
        self.scorer.pixel_levels.copy_(levels_of(ordered))
        self.scorer.pixel_fpr.fill_(self.pixel_fpr)


def _scale(values: Tensor) -> Tensor:
    """Standard deviation over the first axis, 1 where there is none (a part that is absent)."""
    scale = values.std(dim=0)
    return torch.where(scale > LEAST_SCALE, scale, torch.ones_like(scale))


def _spread(values: Tensor) -> Tensor:
    return values[:: max(1, len(values) // PIXELS_PER_IMAGE)]

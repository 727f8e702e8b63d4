"""Calibration: what scores and maps mean is learnt from held-out normal images alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from monai.engines import SupervisedEvaluator
from monai.utils.enums import CommonKeys as Keys
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from networks import AnomalyScorer, Evidence
from networks.conformal import patient_weights, patients_needed, supported_rate
from networks.spatial import axes_of, mean_in_cells, size_of
from pipelines.common import EngineProgress, counted, of_all, share, take_from_main
from pipelines.scoring.weights import WeightFitter
from transforms.errors import InputError

logger = logging.getLogger(__name__)

Gathered = list[tuple[Evidence, Tensor]]

PIXELS_PER_IMAGE = 4096
"""Evenly spaced body pixels of an image that enter the pixel threshold."""


class Calibrator:
    """Fits a scorer's calibration on held-out normal images.

    The raw evidence about all of them is gathered in one pass; from it come the standardisation of
    the maps, then of the parts, then of the score with its quantiles, the threshold at the target
    false-positive rate, the pixel threshold and the levels from which severity bands are read. Of
    several processes each sees its share of the images; what is fitted is fitted on all.

    Args:
        scorer: the trained scorer.
        loader: batches of held-out normal images, key ``image`` ``(B, C, H, W)``, their ``body``
            ``(B, 1, H, W)``, and what the detector needs.
        device: where to compute.
        target_fpr: share of normal images that may be flagged, each patient counting once; with
            too few patients for it, the least that they support is taken in its place.
        pixel_fpr: share of body pixels of normal images that the pixel threshold lets through.
        weights: fits the weights of the fusion on a part of the patients, who then set no
            threshold; None to keep the weights.

    Attributes:
        slice_scores: once run, the score of each image that set the threshold, ``(N,)``.
        case_numbers: the positions in the data of their cases, ``(N,)``.
        patients: whose they are.
        dataset: all held-out normal images, `pipelines.data.NormalSlices`.
        fitted_on: number of patients on whom the weights were fitted.
    """

    def __init__(
        self,
        scorer: AnomalyScorer,
        loader: DataLoader[dict[str, Tensor]],
        device: torch.device | str,
        target_fpr: float = 0.05,
        pixel_fpr: float = 0.01,
        weights: WeightFitter | None = None,
    ) -> None:
        self.scorer = scorer
        self.device = torch.device(device)
        self.target_fpr = float(target_fpr)
        self.pixel_fpr = float(pixel_fpr)
        self.slice_scores = np.empty(0)
        dataset: Any = loader.dataset
        self.dataset = dataset
        patients = [dataset.data[number].patient for number in dataset.case_numbers]
        fitting = weights.chosen(patients) if weights else np.zeros(len(patients), dtype=bool)
        self.weights = weights
        self.fitted_on = len({one for one, taken in zip(patients, fitting, strict=True) if taken})
        self.patients = [one for one, taken in zip(patients, fitting, strict=True) if not taken]
        self.case_numbers = dataset.case_numbers[~fitting]
        self.loader = _only(loader, ~fitting, share)
        self.fitting_loader = _only(loader, fitting, lambda count, _: range(count))

    def check(self) -> str | None:
        """Says before the training which rate the patients at hand support.

        Returns:
            What is to be noted where that is not the one asked for.

        Raises:
            ValueError: for rates that are none.
        """
        count = len(set(self.patients))
        rate = supported_rate(count, self.target_fpr)
        if not 0.0 < self.pixel_fpr < 1.0:
            raise InputError(f"pixel_fpr: expected a rate between 0 and 1, found {self.pixel_fpr}.")
        if rate == self.target_fpr:
            return None
        needed = patients_needed(self.target_fpr)
        return (
            f"A false-positive rate of {self.target_fpr:g} needs {needed} held-out normal patients "
            f"for calibration; with the {count} at hand the threshold is set for {rate:.3g}."
        )

    def run(self) -> None:
        """Fits all buffers."""
        self.check()
        self.scorer.reset()
        self.fit(self.gather())

    def fit(self, gathered: Gathered) -> None:
        """Fits all buffers on evidence that was gathered."""
        scorer = self.scorer
        calibration = scorer.calibration
        self._fit_maps(gathered)
        if self.weights and self.fitted_on:
            self.weights.fit_map(scorer, self.fitting_loader, self.device)
        pooled = [self._pool(evidence, body) for evidence, body in gathered]
        raw, values = self._joined(gathered, pooled)
        calibration.fit_parts(raw)
        if self.weights and self.fitted_on:
            self.weights.fit_score(scorer, self.fitting_loader, self.device)
        fused = scorer.fusion.score(values, scorer.standardized_parts(raw))
        scores = calibration.fit_scores(fused, patient_weights(self.patients), self.target_fpr)
        self.slice_scores = scores.double().cpu().numpy()
        if calibration.members is not None:
            alone = [self._members(evidence, body) for evidence, body in gathered]
            calibration.fit_members(self._together(alone))
        calibration.fit_pixels(self._together([pixels for _, pixels in pooled]), self.pixel_fpr)
        take_from_main(calibration)
        logger.info(
            "Calibrated on %s of %s: threshold %.3f standard deviations for a false-positive rate "
            "of %.3g.",
            counted(len(scores), "held-out normal image"),
            counted(int(calibration.n_patients), "patient"),
            float(calibration.threshold),
            float(calibration.target_fpr),
        )

    def around(self, number: int) -> list[int]:
        """What is scored together with an image: itself, or its stretch of slices of a volume."""
        if self.loader.batch_size is not None:
            return [number]
        stretches: Any = self.loader.batch_sampler
        return next(one for one in stretches if number in one)

    def scores(self, gathered: Gathered) -> NDArray[np.float64]:
        """The scores ``(N,)`` of evidence that was gathered, by the calibration as it is."""
        scorer = self.scorer
        pooled = [self._pool(evidence, body) for evidence, body in gathered]
        raw, values = self._joined(gathered, pooled)
        fused = scorer.fusion.score(values, scorer.standardized_parts(raw))
        found: NDArray[np.float64] = scorer.calibration.standardize(fused).double().cpu().numpy()
        return found

    def _joined(
        self, gathered: Gathered, pooled: list[tuple[dict[str, Tensor], Tensor]]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The raw parts and values of all batches, ``(N,)`` each."""
        raw = {n: self._together([one[n] for one, _ in pooled]) for n in self.scorer.parts}
        values = {
            name: self._together([evidence.values[name] for evidence, _ in gathered])
            for name in gathered[0][0].values
        }
        return raw, values

    def _together(self, batches: list[Tensor]) -> Tensor:
        """Values of all images in their order, with those that other processes saw."""
        own = torch.cat(batches)
        if len(self.loader.sampler) == len(self.loader.dataset):
            return own
        return torch.cat(of_all([own.cpu()])).to(own.device)

    def gather(self) -> Gathered:
        """The evidence of each batch, its maps on the CPU, with the body."""
        self.scorer.to(self.device).eval()
        gathered: Gathered = []
        needs = self.scorer.detector.needs

        def iteration(engine: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
            context = {name: batch[name].to(self.device) for name in needs}
            with torch.no_grad():
                found = self.scorer.evidence(batch[Keys.IMAGE].to(self.device), context)
            maps = {name: value.cpu() for name, value in found.maps.items()}
            gathered.append((Evidence(maps, found.values), batch["body"]))
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

    def _fit_maps(self, gathered: Gathered) -> None:
        for name in self.scorer.map_names:
            inside = [_inside(found.maps[name], body) for found, body in gathered]
            self.scorer.calibration.maps.fit(name, self._together(inside).to(self.device))

    def _pool(self, evidence: Evidence, body: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The raw parts of a batch, and the fused map's values at pixels of the body."""
        with torch.no_grad():
            moved, maps = self._moved(evidence, body)
            fused = self.scorer.fuse_maps(maps)
            parts = self.scorer.raw_parts(moved, maps)
        inside = body.to(self.device)
        return parts, torch.cat([_spread(m[b]) for m, b in zip(fused, inside, strict=True)])

    def _members(self, evidence: Evidence, body: Tensor) -> Tensor:
        with torch.no_grad():
            alone = self.scorer.of_members(*self._moved(evidence, body))
            return self.scorer.fused_members(alone)

    def _moved(self, evidence: Evidence, body: Tensor) -> tuple[Evidence, dict[str, Tensor]]:
        """The evidence of a batch on the device, and its standardised maps."""
        maps = {name: value.to(self.device) for name, value in evidence.maps.items()}
        moved = evidence._replace(maps=maps)
        return moved, self.scorer.standardized_maps(moved, body)


def calibrator_like(
    model: Mapping[str, Any],
    scorer: AnomalyScorer,
    loader: DataLoader[dict[str, Tensor]],
    device: torch.device | str,
    target_fpr: float | None = None,
    pixel_fpr: float | None = None,
) -> Calibrator:
    """Calibrates a model's scorer at the rates that were asked for when it was made.

    Args:
        model: content of the model file.
        scorer: its scorer.
        loader: see `Calibrator`.
        device: see `Calibrator`.
        target_fpr: another rate of images; None for the model's.
        pixel_fpr: another rate of pixels; None for the model's.
    """
    rate = model["target_fpr"] if target_fpr is None else target_fpr
    pixels = round(float(scorer.calibration.pixel_fpr), 6) if pixel_fpr is None else pixel_fpr
    return Calibrator(scorer, loader, device, rate, pixels)


def _only(
    loader: DataLoader[dict[str, Tensor]],
    chosen: NDArray[np.bool_],
    shared: Callable[[int, int], range],
) -> Any:
    """A loader of this process's share of some images; the loader itself, if these are all."""
    if chosen.all():
        return loader
    subset = Subset(loader.dataset, np.flatnonzero(chosen).tolist())
    if loader.batch_size is None:  # stretches of volumes, whose patients are chosen as a whole
        place = np.cumsum(chosen) - 1
        whole: Any = loader.batch_sampler
        stretches = [place[one].tolist() for one in whole if chosen[one[0]]]
        return DataLoader(subset, batch_sampler=stretches, collate_fn=loader.collate_fn)
    size = loader.batch_size or 1
    return DataLoader(subset, size, sampler=shared(len(subset), size), collate_fn=loader.collate_fn)


def _inside(maps: Tensor, body: Tensor) -> Tensor:
    """Values of maps ``(B, 1, *s)`` at positions that show the body, not a mere corner of it."""
    cover = mean_in_cells(body.float(), size_of(maps))
    shown = cover >= 0.5 * cover.amax(dim=(1, *axes_of(cover)), keepdim=True)
    return torch.cat([_spread(m[b]) for m, b in zip(maps, shown, strict=True)])


def _spread(values: Tensor) -> Tensor:
    return values[:: max(1, len(values) // PIXELS_PER_IMAGE)]

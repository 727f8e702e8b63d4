"""The weights of a fusion, fitted on synthetic anomalies of a kind that no training has seen."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.utils.enums import CommonKeys as Keys
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from networks import AnomalyScorer, WeightedFusion
from pipelines.common import derive_seed, generator
from pipelines.scoring.patches import Anomalies, in_volumes
from transforms.synthetic import SyntheticAnomalies

logger = logging.getLogger(__name__)

LEAST_PATIENTS = 20
"""With fewer patients to fit on, the weights that were given serve."""

SHARE = 1 / 3
"""Of the held-out patients that fit the weights; the others set the threshold."""

PENALTY = 1e-3
"""On the squared weights, beside the mean log loss."""

PIXELS = 64
"""Pixels of an image inside the anomaly, and as many outside, that fit the weights of the map."""

Floats = NDArray[np.float64]
Batches = Iterable[Mapping[str, Tensor]]


class WeightFitter:
    """Fits the weights of a `WeightedFusion` on held-out normal images, with and without anomalies.

    A logistic regression without negative weights tells normal images from the same images with
    anomalies of a family that pre-training withheld: else the head, which knows the others, would
    be trusted too much. Its patients neither trained nor set the threshold.

    Args:
        synthetic: makes the withheld anomalies.
        seed: the run's seed.
        wanted: whether weights are to be fitted at all.
    """

    def __init__(self, synthetic: SyntheticAnomalies, seed: int = 0, wanted: bool = True) -> None:
        self.synthetic = synthetic
        self.seed = seed
        self.wanted = wanted

    def chosen(self, patients: Sequence[str]) -> NDArray[np.bool_]:
        """Which images fit the weights: those of a third of the patients, drawn by the seed.

        Args:
            patients: of the held-out images, ``(N,)``.

        Returns:
            ``(N,)`` bool; none when that third is fewer than `LEAST_PATIENTS`.
        """
        ranked = sorted(set(patients), key=lambda one: derive_seed(self.seed, f"weights {one}"))
        count = int(SHARE * len(ranked))
        taken = set(ranked[:count] if self.wanted and count >= LEAST_PATIENTS else ())
        return np.array([one in taken for one in patients], dtype=bool)

    def fit_map(self, scorer: AnomalyScorer, batches: Batches, device: torch.device | str) -> None:
        """Fits the weights of the map, and puts them into the scorer's fusion.

        Args:
            scorer: whose maps are standardised already.
            batches: the chosen images, ``image`` ``(B, C, H, W)``, ``body`` and ``region``
                ``(B, 1, H, W)``, and what the detector needs.
            device: where to compute.
        """
        if not isinstance(scorer.fusion, WeightedFusion):
            return
        pixels = _Samples()
        for _, maps, hits, body in self._seen(scorer, batches, device):
            for one, hit in enumerate(hits):
                for where, label in ((hit, True), (body[one] & ~hit, False)):
                    places = where.flatten().nonzero().flatten()
                    places = places[:: max(1, len(places) // PIXELS)]
                    found = {n: v[one].flatten()[places] for n, v in maps.items()}
                    pixels.add(found, torch.full((len(places),), label))
        scorer.fusion.map_weights = pixels.weights() or scorer.fusion.map_weights

    def fit_score(
        self, scorer: AnomalyScorer, batches: Batches, device: torch.device | str
    ) -> None:
        """Fits the weights of a fused score; as `fit_map`, but the parts are standardised too."""
        if type(scorer.fusion) is not WeightedFusion:
            return
        scores = _Samples()
        for parts, _, hits, _ in self._seen(scorer, batches, device):
            shows = hits.flatten(1).any(dim=1)
            kept = shows | ~shows.any()  # an anomaly that does not show tells nothing
            scores.add({name: value[kept] for name, value in parts.items()}, shows[kept])
        scorer.fusion.weights = scores.weights() or scorer.fusion.weights

    def _seen(
        self, scorer: AnomalyScorer, batches: Batches, device: torch.device | str
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]]:
        """Parts, maps, anomalies and bodies of the images as they are, then with anomalies."""
        synthetic = in_volumes(scorer, self.synthetic)
        pairs = with_and_without(batches, synthetic, self.seed, "weights", device)
        for seen, hit, batch in pairs:
            yield *_standardized(scorer, seen, batch), hit, batch["body"]


def with_and_without(
    batches: Batches,
    synthetic: Anomalies,
    seed: int,
    phase: str,
    device: torch.device | str,
) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """Normal images as they are, then with anomalies, batch by batch.

    Args:
        batches: ``image`` ``(B, C, H, W)``, ``body`` and ``region`` ``(B, 1, H, W)``, and more.
        synthetic: makes the anomalies.
        seed: with the phase and the number of the batch, it decides them.
        phase: see `seed`.
        device: where to compute.

    Yields:
        The images, where anomalies are ``(B, 1, H, W)`` bool, and the batch on the device.
    """
    for number, batch in enumerate(batches):
        source = generator(seed, phase, number, device=device)
        moved = {name: value.to(device) for name, value in batch.items()}
        image, body = moved[Keys.IMAGE], moved["body"]
        changed, mask = synthetic(image, body, moved["region"], source)
        yield image, torch.zeros_like(body), moved
        yield changed, mask > 0.5, moved


class _Samples:
    """Standardised evidence with labels."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}
        self.labels: list[Tensor] = []

    def add(self, found: Mapping[str, Tensor], labels: Tensor) -> None:
        for name, value in found.items():
            self.values.setdefault(name, []).append(value.double().cpu())
        self.labels.append(labels.cpu())

    def weights(self) -> dict[str, float]:
        """Weights by name, that sum to 1; none when nothing tells the labels apart."""
        columns = [torch.cat(value).numpy() for value in self.values.values()]
        labels = torch.cat(self.labels).double().numpy()
        found = logistic_weights(np.stack(columns, axis=1), labels)
        if not found.sum() > 0:
            return {}
        return dict(zip(self.values, (found / found.sum()).tolist(), strict=True))


def logistic_weights(values: Floats, labels: Floats) -> Floats:
    """Coefficients of a logistic regression that are not negative.

    Args:
        values: ``(N, P)``.
        labels: 0 or 1, ``(N,)``; both kinds count alike.

    Returns:
        ``(P,)``.
    """
    anomalous = labels.mean()
    share = np.where(labels > 0, 0.5 / max(anomalous, 1e-9), 0.5 / max(1 - anomalous, 1e-9))

    def loss(coefficients: Floats) -> tuple[float, Floats]:
        weights, offset = coefficients[:-1], coefficients[-1]
        logits = values @ weights + offset
        value = (share * (np.logaddexp(0.0, logits) - labels * logits)).mean()
        slope = share * (expit(logits) - labels) / len(labels)
        gradient = np.append(values.T @ slope + 2 * PENALTY * weights, slope.sum())
        return float(value + PENALTY * weights @ weights), gradient

    count = values.shape[1]
    bounds: list[Any] = [(0.0, None)] * count + [(None, None)]
    found = minimize(loss, np.zeros(count + 1), jac=True, bounds=bounds, method="L-BFGS-B")
    solution: Floats = found.x[:-1]
    return solution


def _standardized(
    scorer: AnomalyScorer, image: Tensor, batch: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The standardised parts ``(B,)`` of images, and their maps ``(B, 1, H, W)`` as fused."""
    context = {name: batch[name] for name in scorer.detector.needs}
    with torch.no_grad():
        evidence = scorer.evidence(image, context)
        maps = scorer.standardized_maps(evidence, image)
        parts = scorer.standardized_parts(scorer.raw_parts(evidence, maps))
    return parts, scorer.bounded_maps(maps)

"""Pixel-level metrics from histograms: constant memory, whatever the number of slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import label

from pipelines.metrics.bootstrap import RESAMPLES, draw_patients
from pipelines.metrics.figure import Figure
from pipelines.metrics.ranking import (
    auroc,
    average_precision,
    best_dice,
    decision_rates,
    partial_overlap_area,
    ratio,
)
from transforms.errors import InputError

Floats = NDArray[np.float64]

AUPRO_LIMIT = 0.3
"""Highest false-positive rate of the per-region overlap curve."""

LOW, HIGH, BINS = -20.0, 200.0, 4096
"""Of a histogram, in map units; values beyond fall into the first and the last bin."""

_EDGES: Floats = np.sinh(np.linspace(np.arcsinh(LOW), np.arcsinh(HIGH), BINS + 1))

_EDGES.setflags(write=False)

_EIGHT_NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)
_EIGHT_NEIGHBOURS[1] = True  # of the same image
_NAMES = (
    "pixel_ap",
    "pixel_auroc",
    "aupro_03",
    "dice_oracle",
    "dice_at_threshold",
    "pixel_sensitivity",
    "pixel_specificity",
    "patient_dice_at_threshold",
)


@cache
def default_edges(threshold: float | None = None) -> Floats:
    """Bin edges for standardised map values, even in ``asinh(value)``.

    Bins are about 0.0024 wide near zero and grow in proportion to the value beyond 1.

    Args:
        threshold: value to be added as an edge, which makes decisions at it exact. One at
            infinity, which flags nothing, needs no edge.

    Returns:
        Increasing edges, (BINS + 1,), or up to three more with a threshold; always the same array,
        which cannot be changed.
    """
    if threshold is None or np.isinf(threshold):
        return _EDGES
    # The neighbours keep the threshold an inner edge where it lies outside the range.
    around = [np.nextafter(threshold, -np.inf), threshold, np.nextafter(threshold, np.inf)]
    edges: Floats = np.union1d(_EDGES, around)
    edges.setflags(write=False)
    return edges


@dataclass
class PixelHistogram:
    """Map values of normal and of lesion pixels, by patient.

    A patient takes 24 bytes per bin, about 100 kB with the default edges.

    Attributes:
        edges: (B + 1,) increasing; bin b holds edges[b] < value <= edges[b + 1], the first and the
            last bin everything beyond as well.
    """

    edges: Floats = field(default_factory=default_edges)
    _counts: dict[str, Floats] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the edges."""
        self.edges = np.asarray(self.edges, dtype=np.float64)
        if self.edges.ndim != 1 or self.edges.size < 2 or not (np.diff(self.edges) > 0).all():
            raise InputError(
                "Argument 'edges' must be increasing numbers, at least two, got shape "
                f"{self.edges.shape}. `default_edges()` makes some."
            )

    @property
    def patients(self) -> tuple[str, ...]:
        """The patients seen, sorted."""
        return tuple(sorted(self._counts))

    def add(
        self,
        patient: str,
        anomaly_map: ArrayLike,
        mask: ArrayLike,
        valid: ArrayLike | None = None,
    ) -> None:
        """Adds images.

        Args:
            patient: the patient of the images.
            anomaly_map: maps (H, W) or (K, H, W), higher is more anomalous.
            mask: likewise, True in lesions. Regions for AUPRO are the 8-connected components in
                each image.
            valid: likewise, True where pixels count, e.g. inside the body; None takes all.

        Raises:
            InputError: if shapes differ, or the map has NaN where pixels count.
        """
        values, lesion = np.asarray(anomaly_map), np.asarray(mask).astype(bool)
        counted = np.ones(values.shape, bool) if valid is None else np.asarray(valid).astype(bool)
        if values.ndim not in (2, 3) or not values.shape == lesion.shape == counted.shape:
            raise InputError(
                "Arguments 'anomaly_map', 'mask' and 'valid' must be of one shape (H, W) or "
                f"(K, H, W), got {values.shape}, {lesion.shape} and {counted.shape} for patient "
                f"{patient!r}."
            )
        inside = values[counted]
        if np.isnan(inside).any():
            raise InputError(
                f"Argument 'anomaly_map' of patient {patient!r} has {int(np.isnan(inside).sum())} "
                "NaN: expected a number wherever 'valid' is True."
            )
        self._of(patient)[:] += self._count(inside, lesion, counted)

    def merge(self, other: PixelHistogram) -> None:
        """Adds all images of another histogram, e.g. of another process.

        Args:
            other: histogram with the same edges.

        Raises:
            InputError: if the edges differ.
        """
        if not np.array_equal(self.edges, other.edges):
            raise InputError(
                "Argument 'other' must have the same edges: expected "
                f"{self.edges.size} from {self.edges[0]:g} to {self.edges[-1]:g}, got "
                f"{other.edges.size} from {other.edges[0]:g} to {other.edges[-1]:g}."
            )
        for patient, counts in other._counts.items():
            self._of(patient)[:] += counts

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything counted so far, as arrays that `numpy.savez` can store.

        Returns:
            ``edges``, ``patients``, and ``counts`` (P, 3, B): pixels, normal and anomalous, and the
            regions' histograms, see `arrays`.
        """
        counts = [self._counts[patient] for patient in self.patients]
        return {
            "edges": self.edges.copy(),
            "patients": np.array(self.patients, dtype=np.str_),
            "counts": np.array(counts).reshape(-1, 3, self.edges.size - 1),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> PixelHistogram:
        """Restores what `state_dict` gave."""
        histogram = cls(state["edges"])
        for patient, counts in zip(state["patients"], state["counts"], strict=True):
            histogram._counts[str(patient)] = np.array(counts)
        return histogram

    def arrays(self) -> tuple[NDArray[np.int64], Floats]:
        """Counts of all patients, in the order of `patients`.

        Returns:
            Pixels (P, 2, B), normal then anomalous; the regions' histograms (P, B), each
            divided by its size before summing, so that a row sums to the number of regions.
        """
        counts = self.state_dict()["counts"]
        return counts[:, :2].astype(np.int64), counts[:, 2]

    def _of(self, patient: str) -> Floats:
        """What is kept of a patient, see `state_dict`; counts are exact up to 2 ** 53."""
        return self._counts.setdefault(patient, np.zeros((3, self.edges.size - 1)))

    def _count(
        self, inside: NDArray[Any], lesion: NDArray[np.bool_], counted: NDArray[np.bool_]
    ) -> Floats:
        """Counts images; `inside` are the maps' values where `counted` is True."""
        inner, anomalous = self.edges[1:-1], lesion[counted]
        counts = np.zeros((3, inner.size + 1))
        counts[0] = _per_bin(inside[~anomalous], inner)
        if anomalous.any():
            shown = (lesion & counted).reshape(-1, *lesion.shape[-2:])
            shown = shown[shown.any(axis=(1, 2))]
            components, regions = label(shown, structure=_EIGHT_NEIGHBOURS)
            member = components[shown]
            share = 1.0 / np.bincount(member, minlength=regions + 1)[member]
            where = np.searchsorted(inner, inside[anomalous], side="left")
            counts[1] = np.bincount(where, minlength=inner.size + 1)
            counts[2] = np.bincount(where, share, minlength=inner.size + 1)
        return counts


def _per_bin(values: NDArray[Any], inner: Floats) -> NDArray[np.int64]:
    """How many values lie between the inner edges, and beyond the first and the last.

    Edges are looked up among sorted values, which is many times as fast as values among edges.
    """
    up_to = np.searchsorted(np.sort(values), inner, side="right")
    return np.diff(up_to, prepend=0, append=values.size)


def pixel_metrics(
    histogram: PixelHistogram,
    threshold: float,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Figure]:
    """Metrics over the pixels of all images.

    Pixels of all patients are pooled, except in `patient_dice_at_threshold`, the mean over
    patients with a lesion. Values within a bin count as tied.

    Args:
        histogram: the maps and masks.
        threshold: a pixel is flagged above this map value; it was fixed on normal images. It is
            moved to the nearest edge, so make it one (`default_edges(...)`).
        resamples: bootstrap resamples of patients.
        seed: seed of the bootstrap.

    Returns:
        `pixel_ap`, `pixel_auroc`, `aupro_03` (per-region overlap up to a false-positive rate of
        0.3, divided by 0.3), `dice_oracle` (best threshold, seen on the test masks),
        `dice_at_threshold`, `pixel_sensitivity`, `pixel_specificity` and
        `patient_dice_at_threshold`, all in [0, 1]; None where no mask defines them.

    Raises:
        InputError: if the threshold is NaN.
    """
    if not histogram.patients:
        return {name: Figure(None) for name in _NAMES}
    pixels, overlap = histogram.arrays()
    negative, positive = (pixels[:, kind].astype(np.float64) for kind in (0, 1))
    first = _first_flagged_bin(histogram.edges, threshold)
    dice, _, _ = _at_threshold(positive, negative, first)
    lesioned = np.isfinite(dice)

    def statistics(weights: Floats) -> Floats:
        pooled = weights @ positive, weights @ negative
        ranking = (
            average_precision(*pooled),
            auroc(*pooled),
            partial_overlap_area(weights @ overlap, pooled[1], AUPRO_LIMIT),
            best_dice(*pooled),
        )
        mean_dice = ratio(weights @ np.nan_to_num(dice), weights @ lesioned)
        return np.stack([*ranking, *_at_threshold(*pooled, first), mean_dice], axis=1)

    over = [lesioned.size if name == "pixel_specificity" else lesioned.sum() for name in _NAMES]
    bootstrap = draw_patients(histogram.patients, None, resamples, seed)
    return bootstrap.figures(_NAMES, statistics, over)


def mean_pixel_ap(
    trainings: Sequence[PixelHistogram],
    *,
    minus: Sequence[PixelHistogram] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Figure:
    """Mean pixel average precision of several trainings, less that of another method.

    Args:
        trainings: the maps of each training.
        minus: likewise of the other method, of the same patients; none for the mean itself.
        resamples: bootstrap resamples; all trainings see the same patients in each.
        seed: seed of the bootstrap.

    Returns:
        The mean in [0, 1], or the difference of the means in [-1, 1]; None without masks.

    Raises:
        InputError: if the histograms are of different patients.
    """
    patients = trainings[0].patients
    if any(one.patients != patients for one in (*trainings, *minus)):
        raise InputError("Arguments 'trainings' and 'minus' must be of the same patients.")
    if not patients:
        return Figure(None)
    sides = [[one.arrays()[0].astype(np.float64) for one in side] for side in (trainings, minus)]

    def mean(side: Sequence[Floats], weights: Floats) -> Floats:
        found = [average_precision(weights @ one[:, 1], weights @ one[:, 0]) for one in side]
        values: Floats = np.mean(found, axis=0)
        return values

    def statistic(weights: Floats) -> Floats:
        value = mean(sides[0], weights)
        return (value - mean(sides[1], weights) if minus else value)[:, None]

    lesioned = int((sides[0][0][:, 1].sum(axis=1) > 0).sum())
    bootstrap = draw_patients(patients, None, resamples, seed)
    return bootstrap.figures(["pixel_ap"], statistic, [lesioned])["pixel_ap"]


def patient_dice(histogram: PixelHistogram, threshold: float) -> dict[str, float | None]:
    """Dice of each patient at a threshold.

    Args:
        histogram: the maps and masks.
        threshold: see `pixel_metrics`.

    Returns:
        Dice by patient, over all images of the patient; None for patients without a lesion.
    """
    pixels, _ = histogram.arrays()
    first = _first_flagged_bin(histogram.edges, threshold)
    dice, _, _ = _at_threshold(pixels[:, 1].astype(float), pixels[:, 0].astype(float), first)
    return {
        patient: float(value) if np.isfinite(value) else None
        for patient, value in zip(histogram.patients, dice, strict=True)
    }


def _first_flagged_bin(edges: Floats, threshold: float) -> int:
    """The first bin above a threshold, or the number of bins where none is.

    Beyond the edges nothing can be told apart: a threshold below them flags everything, one above
    them nothing.
    """
    if np.isnan(threshold):
        raise InputError("Argument 'threshold' must be a number, got NaN.")
    return int(np.argmin(np.abs(edges - np.clip(threshold, edges[0], edges[-1]))))


def _at_threshold(positive: Floats, negative: Floats, first: int) -> tuple[Floats, Floats, Floats]:
    """Dice, sensitivity and specificity with bins from `first` on flagged; (R, B) to (R,)."""
    flagged = positive[:, first:].sum(1), negative[:, first:].sum(1)
    return decision_rates(*flagged, positive.sum(1), negative.sum(1))

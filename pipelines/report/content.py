"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics import ScoreRow, Verdict
from pipelines.outputs import Example
from transforms.geometry import SliceAxis


@dataclass(frozen=True)
class ViewerVolume:
    """A volume with its anomaly map, to be scrolled through.

    Attributes:
        name: name of the case.
        image: (X, Y, Z) input values as stored, in any range.
        anomaly_map: (X, Y, Z) in standard deviations.
        mask: (X, Y, Z) lesion mask, None when unknown.
        affine: 4 x 4, voxel indices to mm in RAS+.
        caption: a line below the volume, e.g. "score 3.2, percentile 100, flagged".
        slice_scores: score of each scored slice, by its number in the file; empty when unknown.
        slice_axis: the anatomical axis of these slices.
    """

    name: str
    image: NDArray[np.float32]
    anomaly_map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    affine: NDArray[np.float64]
    caption: str = ""
    slice_scores: Mapping[int, float] = field(default_factory=dict)
    slice_axis: SliceAxis = "axial"


@dataclass(frozen=True)
class ReportContent:
    """Everything that a report shows; what is empty or None has no section.

    Attributes:
        title: what was done, e.g. "Training", "Evaluation" or "Inference".
        rows: as in ``scores.csv``: case, patient, slice, label (0, 1 or ""), score and its parts in
            standard deviations, percentile in [0, 100], flagged, and the trivial scores.
        metrics: the content of ``metrics.json``, see `pipelines.metrics.summary.summarize`.
        verdict: what these figures amount to; None where nothing was measured.
        threshold: score above which an image is flagged, in standard deviations.
        target_fpr: share of normal images that the threshold was to flag, in [0, 1].
        n_normal: number of normal images that the calibration used.
        n_patients: number of their patients.
        quantiles: (1001,) ascending scores of these normal images.
        held_out: scores of these images themselves, in any order, where no anomalous image shows
            more; else empty.
        history: one mapping per epoch, as `pipelines.outputs.pictures.save_curves` takes.
        regions: normal images ``(H, W)`` in [0, 1], each with the region ``(H, W)`` bool in which
            synthetic anomalies lay.
        stability: what mild changes do to normal images, one mapping per change: ``change``, and
            the shares and shifts of `pipelines.scoring.Stability`.
        examples: slices to be shown as panels, of any kind.
        thumbnails: a JPEG of each case, by its name.
        panels: whether each case has a picture in ``panels/`` beside the page.
        volumes: volumes for the viewer, the most telling first.
        failures: cases that could not be scored, each with ``case`` and ``reason``.
        about: plain values: what was run on what.
        notes: warnings that the results must carry.
        volumetric: whether rows are slices of volumes.
        pixel_threshold: map value above which a pixel is flagged, in standard deviations.
    """

    title: str
    rows: Sequence[ScoreRow]
    metrics: Mapping[str, Any] | None
    threshold: float
    target_fpr: float
    n_normal: int
    n_patients: int
    quantiles: NDArray[np.float64]
    verdict: Verdict | None = None
    held_out: Sequence[float] = ()
    history: Sequence[Mapping[str, float]] = ()
    regions: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_]]] = ()
    stability: Sequence[Mapping[str, Any]] = ()
    examples: Sequence[Example] = ()
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)
    panels: bool = False
    volumes: Sequence[ViewerVolume] = ()
    failures: Sequence[Mapping[str, str]] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    volumetric: bool = False
    pixel_threshold: float | None = None

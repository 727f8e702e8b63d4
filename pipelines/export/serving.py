"""The scoring path as transforms and an inferer over a dictionary, as servers of bundles run it.

A server such as MONAI Label's ``monaibundle`` app reads ``inference.json`` and runs, one after the
other, ``pre_transforms`` on ``{"image": <file>}``, ``inferer`` on the loaded image and the network,
and ``post_transforms``, which leave a label map in ``pred`` and plain values in ``result``. The
parts are those of evaluation and inference, so that all of them score alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform
from monai.utils.misc import ensure_tuple
from torch import Tensor

from networks.scope import Scope
from networks.scorer import AnomalyScorer
from pipelines.data import Case, CaseLoader, CaseSample, require_images, require_slices
from pipelines.scoring import (
    VERY_SUSPICIOUS_PERCENTILE,
    Bands,
    CaseReference,
    findings,
    packed,
    scored_case,
)
from transforms.errors import InputError

CASE = "case"
"""Key of the loaded case, which the label map needs to find back to the grid of the file."""

RESULT = "result"
"""Key of the plain values of an answer."""


class LoadSlicesd(MapTransform):
    """Replaces a file by its slices ``(K, C', H, W)``, and adds the case under `CASE`.

    What the detector needs beside the images in [0, 1] is packed with them: nothing else reaches
    the inferer of a server.

    Args:
        keys: of a file, a folder of one DICOM series, or a list of files, one per modality.
        loader: reads, scales and cuts, as in training.
        scorer: whose detector says what goes with the slices.
    """

    def __init__(self, keys: KeysCollection, loader: CaseLoader, scorer: AnomalyScorer) -> None:
        super().__init__(keys)
        self.loader = loader
        self.scorer = scorer

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Reads the file.

        Raises:
            InputError: when it cannot be used, or the model is one of signals.
        """
        require_images({"preprocessing": self.loader.parameters}, "ckpt_dir")
        d = dict(data)
        for key in self.key_iterator(d):
            paths = tuple(Path(one) for one in ensure_tuple(d[key]))
            sample = require_slices(self.loader(Case("image", "image", paths)))
            d[key] = packed(sample.images, sample.context, self.scorer.detector)
            d[CASE] = sample
        return d


class LabelBandsd(MapTransform):
    """Replaces the scored slices by a label map on the grid of the file; adds `RESULT`.

    The label map is a uint8 MetaTensor, 0 unremarkable, 1 suspicious and 2 very suspicious:
    ``(1, X, Y, Z)`` with the affine of a volume; ``(W, H)`` for a picture, as MONAI's writers take
    it.

    Args:
        keys: of the scored slices.
        scorer: the calibrated scorer.
        reference: scores of held-out normal volumes.
        very_suspicious: percentile of held-out normal pixels at which the second band begins.
        scope: what the model was made for; None for unknown.
    """

    def __init__(
        self,
        keys: KeysCollection,
        scorer: AnomalyScorer,
        reference: CaseReference,
        very_suspicious: float = VERY_SUSPICIOUS_PERCENTILE,
        scope: Scope | None = None,
    ) -> None:
        super().__init__(keys)
        self.scorer = scorer
        self.reference = reference
        self.scope = scope
        self.bands = Bands.of(scorer, float(very_suspicious))

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Makes the label map.

        Raises:
            InputError: when the slices were scored by another model than ``scorer``.
        """
        d = dict(data)
        sample: CaseSample = d.pop(CASE)
        for key in self.key_iterator(d):
            scored: Mapping[str, Tensor] = d[key]
            self._check_model(scored)
            everything = slice(0, len(sample.images))
            known = None if self.scope is None else self.scope(sample.images)
            limits = self.scorer.calibration.limits
            case = scored_case(
                sample, dict(scored), everything, self.scorer, limits, self.reference, known
            )
            found = findings(case, self.bands)
            d[key] = _as_label(found.label_map, sample)
            d[RESULT] = found.words
        return d

    def _check_model(self, scored: Mapping[str, Tensor]) -> None:
        """A server may load a replaced model file on its own, with the thresholds of the old."""
        if not torch.equal(scored["quantiles"], self.scorer.calibration.quantiles.cpu()):
            raise InputError(
                "ckpt_dir: the model file was replaced while it was served. Start the server again "
                "to serve the new one."
            )


def _as_label(label_map: np.ndarray[Any, np.dtype[np.uint8]], sample: CaseSample) -> MetaTensor:
    if sample.geometry.slice_axis is None:
        return MetaTensor(torch.from_numpy(np.ascontiguousarray(label_map.T)))
    affine = torch.tensor(sample.geometry.affine, dtype=torch.float64)
    return MetaTensor(torch.from_numpy(label_map)[None], affine=affine)

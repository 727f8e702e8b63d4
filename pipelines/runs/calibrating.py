"""Calibration of a trained model on the normal images of a site; nothing is trained."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from networks.conformal import flagged_by_others
from pipelines.common import FolderLock, counted, duration, is_main, leave, main_first, write_json
from pipelines.data import Data, seen_content
from pipelines.metrics import Figure, image_metrics
from pipelines.outputs import save_recalibration
from pipelines.runs.session import framed
from pipelines.runs.training import installed_versions
from pipelines.scoring import (
    MODEL_NAME,
    OF_THE_SCORER,
    Calibrator,
    CaseReference,
    case_reference,
    model_version,
    save_model,
    widened_scope,
)
from transforms.errors import InputError

logger = logging.getLogger(__name__)

Scores = NDArray[np.float64]


class Calibrating:
    """Fits thresholds, quantiles and standardisation anew, and says what that changes.

    Args:
        calibrator: of the trained scorer, on the site's normal images.
        model: content of the model file.
        data: the normal images, as the calibration part of the split.
        output_dir: folder of the new model file and of what is told.
        ckpt_dir: the model file or its folder, which stays as it is.
    """

    def __init__(
        self,
        calibrator: Calibrator,
        model: Mapping[str, Any],
        data: Data,
        output_dir: str,
        ckpt_dir: str,
    ) -> None:
        self.calibrator = calibrator
        self.model = model
        self.data = data
        self.output_dir = Path(output_dir)
        self.model_path = self.output_dir / MODEL_NAME
        self.old_path = Path(ckpt_dir) / MODEL_NAME if Path(ckpt_dir).is_dir() else Path(ckpt_dir)
        self.began = time.monotonic()

    def run(self) -> None:
        """Calibrates, writes the new model beside the old one, and sums up.

        Raises:
            InputError: when the new model would take the place of the old one.
        """
        if self.model_path.resolve() == self.old_path.resolve():
            raise InputError(
                f"output_dir: {self.output_dir} holds the model that is to be calibrated, which is "
                "kept. Choose another folder with --output_dir."
            )
        lock = FolderLock(self.output_dir, "output_dir")
        with main_first():
            if is_main():
                lock.acquire()
        note = self.calibrator.check()
        notes = [*self.data.notes, *([note] if note else [])]
        calibrator, scorer = self.calibrator, self.calibrator.scorer
        gathered = calibrator.gather()
        old_parts = _moments(scorer)
        old = self._judged(calibrator.scores(gathered), case_reference(self.model))
        scorer.reset()
        calibrator.fit(gathered)
        reference = self._reference(calibrator.slice_scores)
        new = self._judged(calibrator.slice_scores, reference, by_others=True)
        if not leave():
            return
        told = {
            "before": old,
            "after": new,
            "parts": {"before": old_parts, "after": _moments(scorer)},
            "calibrated": model_version(self.model),
            "normal_images": len(calibrator.patients),
            "patients": len(set(calibrator.patients)),
            "notes": notes,
        }
        save_recalibration(
            self.output_dir / "calibration.png",
            {
                "before": (old["scores"], old["threshold"]),
                "after": (new["scores"], new["threshold"]),
            },
        )
        del old["scores"], new["scores"]
        save_model(self.model_path, scorer, self._facts(reference, notes))
        write_json(self.output_dir / "calibration.json", told)
        lock.release()
        places = {
            "model": self.model_path,
            "told": self.output_dir / "calibration.json",
            "picture": self.output_dir / "calibration.png",
            "old model": f"{self.old_path} (as it was)",
            "duration": duration(time.monotonic() - self.began),
        }
        logger.info(framed(notes, _lines(told), places))

    def _reference(self, scores: Scores) -> CaseReference:
        calibrator = self.calibrator
        if not self.model["volumetric"]:
            return CaseReference((), calibrator.target_fpr)
        return CaseReference.of_slices(
            scores, calibrator.case_numbers, calibrator.target_fpr, calibrator.patients
        )

    def _judged(
        self, scores: Scores, reference: CaseReference, by_others: bool = False
    ) -> dict[str, Any]:
        """Threshold, promised and realised rate of the calibration as it is, and the scores.

        Args:
            scores: of the images.
            reference: of volumes.
            by_others: whether each patient is judged by the threshold of the others, since the own
                images helped to set it.
        """
        calibration, patients = self.calibrator.scorer.calibration, self.calibrator.patients
        flagged = scores > float(calibration.threshold)
        known = not by_others or len(set(patients)) > 1  # one patient has no others
        if by_others and known:
            rate = self.calibrator.target_fpr
            flagged = flagged_by_others(torch.from_numpy(scores), patients, rate).numpy()
        figures = image_metrics(np.zeros(len(scores), dtype=int), scores, flagged, patients)
        return {
            "threshold": float(calibration.threshold),
            "promised_fpr": float(calibration.target_fpr),
            "realised_fpr": (figures["realised_fpr"] if known else Figure(None)).as_dict(),
            "volume_threshold": reference.threshold,
            "volume_promised_fpr": reference.fpr,
            "scores": scores,
        }

    def _facts(self, reference: CaseReference, notes: list[str]) -> dict[str, Any]:
        """What the new model file carries beside its weights."""
        calibrator = self.calibrator
        facts = {name: one for name, one in self.model.items() if name not in OF_THE_SCORER}
        told = (
            f"Calibrated anew on {counted(len(calibrator.patients), 'normal image')} of "
            f"{counted(len(set(calibrator.patients)), 'patient')}; the model is of "
            f"{self.model['created']}."
        )
        return facts | {
            "case_scores": list(reference.scores),
            "case_weights": list(reference.weights or ()),
            "target_fpr": reference.target_fpr,
            "scope": widened_scope(self.model, calibrator.dataset.images).state_dict(),
            "seen": sorted({*self.model["seen"], *seen_content(self.data)}),
            "notes": [*self.model["notes"], told, *notes],
            "calibrated": model_version(self.model),
            "versions": installed_versions(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }


def _moments(scorer: Any) -> dict[str, dict[str, float]]:
    parts = scorer.calibration.parts
    return {
        name: {"mean": float(mean), "scale": float(scale)}
        for name, mean, scale in zip(parts.names, parts.mean, parts.scale, strict=True)
    }


def _lines(told: Mapping[str, Any]) -> list[str]:
    before, after = told["before"], told["after"]
    return [
        f"Calibrated on {counted(told['normal_images'], 'normal image')} of "
        f"{counted(told['patients'], 'patient')}:",
        f"  {'':<26}{'before':>26}{'after':>26}",
        f"  {'threshold':<26}{before['threshold']:>26.3f}{after['threshold']:>26.3f}",
        f"  {'promised rate':<26}{before['promised_fpr']:>26.1%}{after['promised_fpr']:>26.1%}",
        f"  {'flagged of these images':<26}{_rate(before):>26}{_rate(after):>26}",
        "Each patient counts once; after it, each is judged by the threshold of the others.",
    ]


def _rate(judged: Mapping[str, Any]) -> str:
    figure = judged["realised_fpr"]
    if figure["value"] is None:
        return "one patient cannot tell"
    told = f"{figure['value']:.1%}"
    if figure["ci95"] is None:
        return f"{told} ({figure['note']})" if "note" in figure else told
    low, high = figure["ci95"]
    return f"{told} [{low:.1%}, {high:.1%}]"

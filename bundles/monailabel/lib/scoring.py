"""The anomaly score of every study, kept in the datastore for the strategies."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from monailabel.interfaces.tasks.scoring import ScoringMethod

from lib.guard import Refusal
from lib.infer import AnomalyInfer
from lib.records import SCORE, Records, stamp
from networks import part_column
from pipelines.scoring import CaseScore

logger = logging.getLogger("aeflow.label")

_KEPT = [one.name for one in fields(CaseScore)]


class AnomalyScoring(ScoringMethod):  # type: ignore[misc]
    """Scores the studies that the present model has not scored as they are now.

    Args:
        task: the inference.
    """

    def __init__(self, task: AnomalyInfer) -> None:
        super().__init__(description="Anomaly score of each study, in standard deviations")
        self.task = task

    def waiting(self, datastore: Any) -> list[str]:
        """The ids of the studies that have no score of the present model."""
        model = self.task.model.loaded().fingerprint
        return [one for one in datastore.list_images() if not _current(datastore, one, model)]

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Scores what is waiting; one bad study does not stop the others."""
        began = time.monotonic()
        waiting = self.waiting(datastore)
        failed = 0
        for number, image_id in enumerate(waiting, 1):
            record = self._score(datastore, image_id)
            failed += "failed" in record
            datastore.record(image_id, {SCORE: record})
            print(f"Scored {number} of {len(waiting)} studies.", flush=True)
        return {
            "studies": len(datastore.list_images()),
            "scored": len(waiting) - failed,
            "failed": failed,
            "seconds": round(time.monotonic() - began, 2),
        }

    def _score(self, datastore: Any, image_id: str) -> dict[str, Any]:
        record: dict[str, Any] = {"model": self.task.model.loaded().fingerprint}
        try:
            path = datastore.path(image_id)
            record["file"] = stamp(path)
            words = self.task.find(path).words
        except Refusal as refusal:
            return record | {"failed": refusal.reason}
        except Exception as error:
            logger.error("A study could not be scored (%s).", type(error).__name__)
            return record | {"failed": f"unexpected {type(error).__name__}"}
        kept = [n for n in words if n in _KEPT or n.endswith(part_column(""))]
        return record | {name: words[name] for name in kept}


def _current(datastore: Records, image_id: str, model: str) -> bool:
    found = datastore.info(image_id).get(SCORE)
    if not isinstance(found, dict) or found.get("model") != model:
        return False
    try:
        return bool(found.get("file") == stamp(datastore.path(image_id)))  # type: ignore[attr-defined]
    except (Refusal, OSError):
        return True  # nothing more can be done for it

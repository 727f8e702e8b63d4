"""Batch inference: a label map for every study, whatever one of them is like."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from lib.guard import Refusal

Infer = Callable[[Mapping[str, Any], Any], dict[str, Any]]


class LabelAll(BatchInferTask):  # type: ignore[misc]
    """Saves the label map of each study; MONAI Label's own ends at the first bad one."""

    def __call__(
        self, request: Mapping[str, Any], datastore: Any, infer: Infer
    ) -> dict[str, dict[str, Any]]:
        """Runs the inference of the studies that the request names, in order.

        Returns:
            Per study the tag of its label and the values of the answer, or why it ``failed``.
        """
        images = sorted(self.get_images(request, datastore))
        images = images[: int(request.get("max_batch_size") or len(images))]
        wanted = {key: value for key, value in request.items() if key != "images"}
        found: dict[str, dict[str, Any]] = {}
        for number, image in enumerate(images, 1):
            try:
                answer = infer({**wanted, "image": image, "save_label": True}, datastore)
            except Refusal as refusal:
                found[image] = {"failed": refusal.reason}
            else:
                shutil.rmtree(Path(answer.pop("file")).parent, ignore_errors=True)
                found[image] = answer
            print(f"Labelled {number} of {len(images)} studies.", flush=True)
        failed = sum("failed" in one for one in found.values())
        print(f"Done: {len(found) - failed} labelled, {failed} failed.", flush=True)
        return found

"""Inference: one study in, a label map or an anomaly map and the scores out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.guard import Refusal
from lib.results import wanted, write_result
from lib.serving import ServedModel
from pipelines.outputs import DicomMaps
from pipelines.scoring import LABELS, Findings, findings, model_version


class AnomalyInfer(InferTask):  # type: ignore[misc]
    """Scores a study with the trained bundle.

    Args:
        model: the served model.
    """

    def __init__(self, model: ServedModel) -> None:
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=dict(LABELS),
            dimension=3,
            description="AE-Flow: regions unlike the normal scans it was trained on, in two bands",
        )
        self.model = model

    def is_valid(self) -> bool:
        """Whether there is a model to serve."""
        return self.model.available

    def get_path(self, validate: bool = True) -> str | None:
        """The model file."""
        return str(self.model.path) if self.model.path.is_file() or not validate else None

    def find(self, source: Path) -> Findings:
        """Scores a file or a DICOM folder.

        Raises:
            Refusal: when the image cannot be used.
        """
        began = time.monotonic()
        case, model = self.model.score(source)
        found = findings(case, model.bands)
        found.words["model"] = model.fingerprint
        found.words["model_version"] = model_version(model.predictor.model)
        found.words["latencies"] = {"total": round(time.monotonic() - began, 3)}
        return found

    def run(
        self, source: Path, params: Mapping[str, Any], folder: Path
    ) -> tuple[Path, dict[str, Any]]:
        """Scores a study and writes what the client wants.

        Args:
            source: the image.
            params: the request's parameters; see `lib.results.wanted`.
            folder: for the result.

        Returns:
            The file of the result and the plain values of the answer.

        Raises:
            Refusal: when image or parameters cannot be used.
        """
        want = wanted(params, source)
        found = self.find(source)
        path, scaling = write_result(folder / "aeflow", found, want)
        found.words["result"] = want.kind
        found.words["map"] |= scaling
        return path, found.words

    def segmentation(self, source: Path, folder: Path) -> Path:
        """Scores a DICOM series and writes what is suspicious, in either band, as DICOM SEG.

        Args:
            source: the folder of the series.
            folder: for the result.

        Raises:
            Refusal: 400 when the study is not DICOM or cannot be used.
        """
        if not source.is_dir() and source.suffix != ".dcm":
            raise Refusal(400, "output: dicom_seg needs a DICOM series; ask for an image instead.")
        case, model = self.model.score(source)
        path = folder / "aeflow-seg.dcm"
        if not DicomMaps(model.predictor.scorer, model.predictor.model).write(case, path):
            raise Refusal(400, "output: dicom_seg needs a DICOM series that is a volume.")
        return path

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """MONAI Label's own way in; ``image`` is a path that was checked before.

        Returns:
            A file in a temporary folder of its own, which the caller removes, and the plain values.
        """
        folder = Path(tempfile.mkdtemp())
        path, words = self.run(Path(request["image"]), request, folder)
        return str(path), words

"""One case at a time: what a server, a notebook or a registry needs of a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from networks.scorer import AnomalyScorer
from pipelines.data import Case, model_loader, require_slices
from pipelines.scoring.cases import ScoredCase, ScoreSlices, score_cases
from pipelines.scoring.model_file import load_scorer, read_model
from pipelines.scoring.scope import load_scope
from pipelines.scoring.volume import CaseReference


class Predictor:
    """A trained model that scores files, on the same path as evaluation and inference.

    Args:
        ckpt_dir: the model file or the folder that holds it.
        device: where to compute.
        batch_size: slices that go through the network at once.

    Attributes:
        model: the content of the model file but for the weights.
        scorer: the calibrated scorer.

    Raises:
        InputError: when there is no usable model file.
    """

    def __init__(
        self, ckpt_dir: str | Path, device: torch.device | str = "cpu", batch_size: int = 32
    ) -> None:
        content = read_model(ckpt_dir, complete=False)
        self.model = {k: v for k, v in content.items() if k != "model"}
        self.scorer: AnomalyScorer = load_scorer(content, device)
        self.device = torch.device(device)
        self.inferer = ScoreSlices(batch_size)
        self.loader = model_loader(self.model)
        self.reference = case_reference(self.model)
        self.scope = load_scope(self.model)

    def __call__(self, case: Case) -> ScoredCase:
        """Reads and scores one case.

        Returns:
            Its scores; ``grid_map`` gives the map on the grid of the input.

        Raises:
            InputError: when the case cannot be used.
        """
        samples = [require_slices(self.loader(case))]
        with torch.no_grad():
            (scored,) = score_cases(
                self.scorer, samples, self.inferer, self.device, self.reference, self.scope
            )
        return scored


def case_reference(model: Mapping[str, Any], target_fpr: float | None = None) -> CaseReference:
    """Scores of the held-out normal volumes that a model file records.

    Args:
        model: the content of the file.
        target_fpr: the false-positive rate to judge at; None for the model's own.
    """
    rate = float(model["target_fpr"] if target_fpr is None else target_fpr)
    return CaseReference(tuple(model["case_scores"]), rate, tuple(model["case_weights"]))

"""A run over six small volumes, as several tests of this room need it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.batch.case_run import CaseRun
from pipelines.data.cases import Case
from pipelines.data.datasets import CaseDataset, case_loader
from pipelines.data.slices import CaseLoader
from pipelines.scoring import cases as scoring
from pipelines.scoring.cases import CaseEvaluator, ScoredCase, ScoreSlices
from pipelines.scoring.model_file import load_scorer, read_model

WriteVolume = Callable[..., Path]
WriteModel = Callable[..., dict[str, Any]]
MakeRun = Callable[..., CaseRun]


@pytest.fixture
def make_run(write_model: WriteModel, tmp_path: Path) -> MakeRun:
    """Builds a run over cases as a new process would, writing into ``out``."""
    write_model()

    def make(cases: list[Case], per_batch: int = 1, workers: int = 0, **kwargs: Any) -> CaseRun:
        options = kwargs.pop("loader", {})
        models = kwargs.pop("models", "models")
        dataset = CaseDataset(cases, CaseLoader(32, with_baselines=True, **options))
        loader = case_loader(dataset, per_batch, workers)
        evaluator = CaseEvaluator(
            load_scorer(read_model(tmp_path / models)),
            ScoreSlices(4),
            device=torch.device("cpu"),
            val_data_loader=loader,
        )
        folder = tmp_path / kwargs.pop("folder", "out")
        return CaseRun(evaluator, loader, str(folder), str(tmp_path / models), **kwargs)

    return make


@pytest.fixture
def volumes(write_volume: WriteVolume) -> list[Case]:
    """Six volumes with a lesion in slice 2; unlike scores and sizes."""
    mask = np.zeros((24, 24, 4), dtype=np.uint8)
    mask[6:12, 6:12, 2] = 1
    lesion = write_volume("lesion", mask)
    return [
        Case(f"v{n}", f"p{n}", (write_volume(f"v{n}", shape=(24, 24, 4), seed=n),), mask=lesion)
        for n in range(6)
    ]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the cases that were scored, in their order."""
    names: list[str] = []
    genuine = scoring.score_cases

    def score(scorer: Any, samples: Any, *args: Any) -> list[ScoredCase]:
        names.extend(sample.case.name for sample in samples)
        return genuine(scorer, samples, *args)

    monkeypatch.setattr(scoring, "score_cases", score)
    return names

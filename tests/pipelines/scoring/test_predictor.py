"""One case at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.batch.case_run import CaseRun
from pipelines.data.cases import Case
from pipelines.data.datasets import CaseDataset, case_loader
from pipelines.data.signals import model_loader
from pipelines.metrics.rows import ScoreRow
from pipelines.outputs.maps import PNG_PER_SD
from pipelines.scoring.cases import CaseEvaluator
from pipelines.scoring.model_file import load_scorer, read_model
from pipelines.scoring.predictor import Predictor, case_reference
from transforms.errors import InputError

WriteVolume = Callable[..., Path]
WriteModel = Callable[..., dict[str, Any]]


def evaluated(cases: list[Case], model: dict[str, Any], folder: Path) -> list[ScoreRow]:
    """Rows of a batch evaluation into ``out``."""
    dataset = CaseDataset(cases, model_loader(model), baselines=True)
    loader = case_loader(dataset)
    evaluator = CaseEvaluator(
        load_scorer(read_model(folder / "models")),
        reference=case_reference(model),
        device=torch.device("cpu"),
        val_data_loader=loader,
    )
    return CaseRun(evaluator, loader, str(folder / "out"), str(folder / "models")).run().rows


def test_a_volume_gets_the_batch_evaluation_s_map_and_score(
    write_model: WriteModel, write_volume: WriteVolume, tmp_path: Path
) -> None:
    model = write_model()
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    cases = [
        Case(f"v{n}", f"p{n}", (write_volume(f"v{n}", shape=(24, 20, 9), seed=n, affine=affine),))
        for n in range(2)
    ]
    rows = evaluated(cases, model, tmp_path)
    predictor = Predictor(tmp_path / "models")
    for case in cases:
        found = predictor(case)
        slices = [row for row in rows if row.case == case.name and row.level == "slice"]
        (whole,) = [row for row in rows if row.case == case.name and row.level == "volume"]
        assert found.case_score.score == whole.score
        assert found.case_score.percentile == whole.percentile
        assert found.case_score.flagged is whole.flagged is not None
        for name, values in found.scores.items():
            assert values.tolist() == [getattr(row, name) for row in slices], name
        assert set(found.parts) == {"flow", "recon", "density"}
        for name, values in found.parts.items():
            assert values.tolist() == [row.parts[name] for row in slices], name
        written: Any = nib.load(tmp_path / "out" / "maps" / f"{case.name}_anomaly.nii.gz")
        grid = found.grid_map
        assert (grid.as_tensor().numpy() == np.asarray(written.dataobj)).all()
        np.testing.assert_allclose(grid.affine, written.affine)
        np.testing.assert_allclose(grid.affine, affine)


def test_a_picture_gets_it_too(write_model: WriteModel, tmp_path: Path) -> None:
    model = write_model(volumetric=False, modalities=["image"])
    levels = np.random.default_rng(0).integers(1, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    case = Case("a", "a", (tmp_path / "a.png",))
    (row,) = evaluated([case], model, tmp_path)
    found = Predictor(tmp_path / "models" / "model.pt")(case)
    assert found.case_score.score == row.score and row.level == "image"
    written = np.asarray(Image.open(tmp_path / "out" / "maps" / "a_anomaly.png"))
    expected = np.clip(np.rint(found.grid_map.as_tensor().numpy() * PNG_PER_SD), 0, 65_535)
    assert (written == expected).all()


def test_the_model_is_described_without_its_weights(
    write_model: WriteModel, tmp_path: Path
) -> None:
    model = write_model(case_scores=[1.0, 2.0], case_weights=[1.0, 1.0], target_fpr=0.3)
    predictor = Predictor(str(tmp_path / "models"), batch_size=3)
    assert "model" not in predictor.model and predictor.model["modalities"] == ["flair"]
    assert predictor.reference.scores == (1.0, 2.0) and predictor.reference.target_fpr == 0.3
    assert predictor.loader.parameters == model["preprocessing"]
    assert not predictor.scorer.training


def test_what_cannot_be_scored_is_told(
    write_model: WriteModel, write_volume: WriteVolume, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no model file"):
        Predictor(tmp_path / "models")
    write_model()
    predictor = Predictor(tmp_path / "models")
    thin = np.zeros((24, 24, 4), np.float32)
    thin[11:13, 11:13] = np.random.default_rng(0).uniform(1, 2, (2, 2, 4))
    for name, values, said in (
        ("empty", np.zeros((24, 24, 4), np.float32), "found the value 0 everywhere"),
        ("thin", thin, "thin.nii.gz: no slice shows enough of the body"),
    ):
        with pytest.raises(InputError, match=said):
            predictor(Case(name, name, (write_volume(name, values),)))

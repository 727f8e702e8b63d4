"""Volumes seen in patches: blended on the slices, then scored and put on the grid as slices are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from networks import AnomalyScorer, Detector, Evidence, Inputs, Part, make_fusion
from networks.detectors.aeflow import AEFlowDetector
from pipelines.common.distributed import share
from pipelines.data.cases import Case
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.data.patches import as_seen
from pipelines.data.slices import CaseLoader
from pipelines.runs.held_out import highest_normals
from pipelines.scoring.calibration import Calibrator, _only
from pipelines.scoring.cases import ScoredCase, ScoreSlices, score_cases
from pipelines.scoring.detection import measure_detection
from pipelines.scoring.model_file import MODEL_NAME, save_model
from pipelines.scoring.patches import AT_ONCE, PatchScorer, make_scorer
from pipelines.scoring.predictor import Predictor
from pipelines.scoring.stability import measure_stability
from pipelines.training.batches import NormalBatches
from transforms.errors import InputError
from transforms.synthetic import SyntheticAnomalies

OBLIQUE = np.array(
    [[1.9, 0.3, 0.1, -20.0], [-0.3, 1.9, 0.2, 5.0], [0.1, -0.2, 3.0, 7.0], [0.0, 0.0, 0.0, 1.0]]
)


class PositionWise(Detector):
    """Each pixel's own square; what it was shown is kept."""

    def __init__(self, spatial_dims: int) -> None:
        super().__init__(1, spatial_dims=spatial_dims)
        self.shown: list[tuple[int, ...]] = []

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("square", ("square",), 0.1), Part("mean", weight=0.5))

    @property
    def needs(self) -> tuple[str, ...]:
        return ("body", "place")

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> Tensor:
        self.shown.append(tuple(inputs.image.shape))
        size = inputs.image.shape[2:]
        whole = sum(size) if len(size) == 3 else 1 + sum(size)
        assert inputs.context["place"].shape[1:] == (whole,)
        assert inputs.context["body"].dtype == torch.bool
        return inputs.image.square()

    def evidence(self, output: Tensor, inputs: Inputs) -> Evidence:
        return Evidence({"square": output}, {"mean": output.flatten(1).mean(1)}, inputs.image)


@pytest.fixture
def case(write_volume: Callable[..., Path]) -> Case:
    return Case("a", "pa", (write_volume("oblique", shape=(24, 30, 21), affine=OBLIQUE),), label=0)


def scored(
    scorer: AnomalyScorer, loader: CaseLoader, case: Case, device: str = "cpu"
) -> ScoredCase:
    with torch.no_grad():
        return score_cases(scorer.eval(), [loader(case)], ScoreSlices(5), device)[0]


@pytest.mark.parametrize(
    ("patch_size", "overlap"),
    [((16, 32, 32), 0.5), ((8, 16, 16), 0.25), ((8, 16, 32), 0.0), ((32, 32, 32), 0.5)],
)
def test_patches_give_the_map_that_slices_give(
    case: Case, patch_size: tuple[int, int, int], overlap: float
) -> None:
    """Overlapping or not, larger than the volume or not, also on an oblique grid."""
    plain = CaseLoader(32, min_body_fraction=0.0)
    expected = scored(AnomalyScorer(PositionWise(2), make_fusion()), plain, case)
    loader = CaseLoader(32, min_body_fraction=0.0, patch_size=patch_size, overlap=overlap)
    detector = PositionWise(3)
    scorer = make_scorer(detector, make_fusion(), patch_size=patch_size, overlap=overlap)
    found = scored(scorer, loader, case)
    assert float(expected.grid_map.abs().max()) > 0.1
    torch.testing.assert_close(found.grid_map, expected.grid_map, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.grid_map.affine, expected.grid_map.affine)
    assert found.reconstruction is not None
    torch.testing.assert_close(found.reconstruction, found.sample.images, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found.parts["square"], expected.parts["square"], atol=1e-5)
    # The network's memory is that of a few patches, whatever the volume.
    assert all(one[0] <= AT_ONCE and one[2:] == patch_size for one in detector.shown)


def test_volumes_are_scored_one_by_one(case: Case) -> None:
    loader = CaseLoader(32, patch_size=(8, 32, 32), min_body_fraction=0.0)
    scorer = make_scorer(PositionWise(3), make_fusion(), patch_size=(8, 32, 32)).eval()
    sample = loader(case)
    with torch.no_grad():
        one, two = score_cases(scorer, [sample, sample], ScoreSlices(4), "cpu")
    assert np.array_equal(one.anomaly_map, two.anomaly_map)
    assert len(one.scores["score"]) == 21


def test_a_detector_sees_what_it_is_made_for() -> None:
    for dims, size in ((2, (8, 32, 32)), (3, None)):
        with pytest.raises(InputError, match="patch_size: expected one for a method"):
            make_scorer(PositionWise(dims), make_fusion(), patch_size=size)


def test_volumes_of_chosen_patients_stay_whole(
    case: Case, write_volume: Callable[..., Path]
) -> None:
    loader = CaseLoader(32, patch_size=(8, 32, 32), min_body_fraction=0.0)
    other = Case("b", "pb", (write_volume("b", shape=(24, 24, 9)),), label=0)
    whole = slice_loader(NormalSlices([case, other], loader), 4)
    (batch,) = _only(whole, np.arange(30) >= 21, share)
    assert batch["case"].tolist() == [1] * 9 and batch["slice"].tolist() == list(range(9))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_way_from_training_to_a_prediction(
    case: Case,
    write_volume: Callable[..., Path],
    tmp_path: Path,
    model_facts: dict[str, Any],
    device: str,
) -> None:
    """Prepared on patches, calibrated on stretches, examined, saved, and used by the file alone."""
    size = (16, 32, 32)
    loader = CaseLoader(32, patch_size=size, min_body_fraction=0.0, channels=1)
    shape = (24, 24, 18)
    normal = [Case(n, n, (write_volume(n, shape=shape, seed=i),), 0) for i, n in enumerate("bcd")]
    slices = NormalSlices([case, *normal], loader)
    detector = AEFlowDetector(
        in_channels=1, flow_steps=2, hidden=8, decoder_width=4, with_head=True, spatial_dims=3
    ).to(device)
    for stage in ("train", None):
        detector.prepare(NormalBatches(as_seen(slices), device, 4), stage)
    scorer = make_scorer(detector, make_fusion(), patch_size=size)
    assert isinstance(scorer, PatchScorer)
    calibrator = Calibrator(scorer, slice_loader(slices, 4), device, target_fpr=0.2)
    calibrator.run()
    assert len(calibrator.slice_scores) == 21 + 3 * 18 == int(scorer.calibration.n_normal)
    shown = highest_normals(calibrator)
    assert shown[0].score == pytest.approx(calibrator.slice_scores.max(), abs=1e-3)
    rows = measure_stability(scorer, calibrator.loader, device)
    assert rows[0].change == "none" and rows[0].changed == 0.0 and rows[1].shift != 0.0
    found = measure_detection(
        scorer, calibrator.loader, calibrator.patients, SyntheticAnomalies(), 0, device
    )
    assert found.images == 21 and found.patients == 1 and any(row.n > 3 for row in found.rows)
    small = [row.n for row in found.rows if row.size == "small"]  # an ellipsoid spans few slices
    assert max(small) < 10
    own = scored(scorer, loader, normal[0], device)  # the calibration's path is that of scoring
    nearly = 1e-3 if device == "cpu" else 0.05  # a GPU scores in 16 bits
    np.testing.assert_allclose(own.scores["score"], calibrator.slice_scores[21:39], atol=nearly)
    facts = {**model_facts, "preprocessing": loader.parameters}
    save_model(tmp_path / MODEL_NAME, scorer, facts)
    again = Predictor(tmp_path, device=device)(normal[0])
    nearly = 0.0 if device == "cpu" else 0.05
    np.testing.assert_allclose(again.scores["score"], own.scores["score"], atol=nearly)
    np.testing.assert_allclose(again.anomaly_map, own.anomaly_map, atol=nearly)

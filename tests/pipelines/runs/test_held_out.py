"""What is shown of held-out normal images."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from networks import AnomalyScorer
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.runs.held_out import SHOWN, highest_normals, told_detection
from pipelines.scoring.calibration import Calibrator
from pipelines.scoring.detection import Detection, SyntheticDetection


def test_the_highest_scores_of_the_calibration_are_shown(
    make_scorer: Callable[..., AnomalyScorer],
    make_images: Callable[..., Tensor],
    make_slices: Callable[..., NormalSlices],
    calibrate: Callable[..., AnomalyScorer],
) -> None:
    images = make_images(10)
    scorer = calibrate(make_scorer(), images)
    dataset = make_slices(images)
    dataset.slice_numbers = torch.arange(10) + 20
    calibrator = Calibrator(scorer, slice_loader(dataset, 4), "cpu", target_fpr=0.2)
    calibrator.run()
    found = highest_normals(calibrator)
    order = calibrator.slice_scores.argsort()[::-1][:SHOWN]
    assert [one.case for one in found] == [f"case{n:03d}" for n in order]
    assert [one.index for one in found] == [n + 20 for n in order]
    assert [one.score for one in found] == pytest.approx(calibrator.slice_scores[order], abs=1e-5)
    assert {one.kind for one in found} == {"held-out normal"}
    assert (found[0].image == images[order[0], 0].numpy()).all()
    assert set(found[0].maps) == {"anomaly_map", "flow", "recon"} and found[0].mask is None


@pytest.mark.parametrize(
    ("patients", "told"),
    [(9, "of 20 held-out normal images"), (1, "normal images (1 patient: no figure)")],
)
def test_detection_in_a_line(patients: int, told: str) -> None:
    rows = [Detection("haze", "small", 10, 0.1, 0.6), Detection("opacity", "small", 30, 0.5, 0.7)]
    diameters = {"small": (2, 4), "large": (8, 16)}
    line = told_detection(SyntheticDetection(20, patients, 0.05, diameters, [], rows))
    assert "small 40% flagged; without them 5% of 20" in line and line.endswith(told)
    assert "large" not in line

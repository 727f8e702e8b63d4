"""Cases to scores and maps."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from networks import DETECTORS, AnomalyScorer, ImageScores, make_fusion
from networks.recorded import Recorded
from pipelines.data.cases import Case, FailedCase
from pipelines.data.datasets import CaseDataset, case_loader
from pipelines.data.slices import CaseLoader, _filled
from pipelines.outputs import write_maps
from pipelines.scoring.cases import (
    CaseEvaluator,
    ScoredCase,
    ScoreSlices,
    score_cases,
    score_columns,
)
from pipelines.scoring.patches import PatchScorer
from pipelines.scoring.volume import CaseReference, score_volume
from transforms.readers import read_case
from transforms.slices import to_native

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
Calibrate = Callable[[AnomalyScorer, Tensor], AnomalyScorer]
WriteVolume = Callable[..., Path]
FakeScored = Callable[..., ScoredCase]


@pytest.fixture
def cases(write_volume: WriteVolume, tmp_path: Path) -> list[Case]:
    """A volume of five slices, and a picture."""
    levels = np.random.default_rng(0).integers(1, 256, (24, 24), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "b.png")
    return [
        Case("a", "pa", (write_volume("a", shape=(24, 24, 5)),)),
        Case("b", "pb", (tmp_path / "b.png",), label=0),
    ]


@pytest.fixture
def scorer(make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate) -> AnomalyScorer:
    return calibrate(make_scorer(), make_images(6))


def evaluated(scorer: AnomalyScorer, cases: list[Case], **kwargs: Any) -> dict[str, Any]:
    loader = case_loader(CaseDataset(cases, CaseLoader(32)), len(cases))
    evaluator = CaseEvaluator(scorer, device=torch.device("cpu"), val_data_loader=loader, **kwargs)
    evaluator.run()
    output: dict[str, Any] = evaluator.state.output
    return output


@pytest.fixture(params=[None, (16, 32, 32)], ids=["slices", "patches"])
def either(
    request: pytest.FixtureRequest,
    make_scorer: MakeScorer,
    make_images: MakeImages,
    calibrate: Calibrate,
) -> AnomalyScorer:
    """A scorer of slices, and one of patches of volumes."""
    size = request.param
    images = make_images(6, depth=None if size is None else size[0])
    return calibrate(make_scorer(with_head=True, patch_size=size), images)


def test_a_compiled_scorer_sees_batches_of_one_size(
    either: AnomalyScorer, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, seen = make_images(30, seed=1), []
    monkeypatch.setattr(
        torch, "compile", lambda run: lambda *a: seen.append(len(a[0].image)) or run(*a)
    )
    with torch.no_grad():
        expected = ScoreSlices(4)(images, either)
        either.accelerate()
        found = ScoreSlices(4)(images, either)
    assert seen == ([4] if isinstance(either, PatchScorer) else [4] * 8)  # 3 patches, 30 slices
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_recorded_scorer_sees_few_sizes(
    make_scorer: MakeScorer,
    make_images: MakeImages,
    calibrate: Calibrate,
    fake_graphs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    damaged: bool,
) -> None:
    scorer, images = calibrate(make_scorer(with_head=True), make_images(6)), make_images(19, seed=1)
    score, seen = scorer._score, []

    def counted(given: Mapping[str, Tensor]) -> ImageScores:
        seen.append(len(given[""]))
        found = score(given)
        return found._replace(score=found.score * torch.inf) if damaged else found

    monkeypatch.setattr("networks.scorer.waits", lambda *_: False)
    with torch.no_grad():
        expected = ScoreSlices(4)(images, scorer)
        scorer.recorded = Recorded(counted, images.device)
        if damaged:
            monkeypatch.setattr("networks.scorer.scoring_type", lambda device: torch.bfloat16)
        for _ in range(2):
            found = ScoreSlices(4)(images, scorer)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert set(seen) == {4} and len(fake_graphs) == 1 and fake_graphs[0].replays == 7


def test_a_method_that_waits_is_not_recorded(
    make_scorer: MakeScorer,
    make_images: MakeImages,
    fake_graphs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scorer, images = make_scorer(with_head=True), make_images(24)
    monkeypatch.setattr("networks.scorer.waits", lambda *_: True)
    scorer.recorded = Recorded(scorer._score, images.device)
    with torch.no_grad():
        ScoreSlices(4)(images, scorer)
    assert scorer.recorded is None and not fake_graphs


@pytest.mark.parametrize(("compiling", "expected"), [("auto", 1), ("never", 0)])
def test_cases_are_scored_while_recording(
    make_scorer: MakeScorer, monkeypatch: pytest.MonkeyPatch, compiling: str, expected: int
) -> None:
    scorer, begun = make_scorer(), []
    monkeypatch.setattr(scorer, "recording", lambda: nullcontext(begun.append(1)))
    evaluator = CaseEvaluator(
        scorer, compiling=compiling, device=torch.device("cpu"), val_data_loader=[]
    )
    monkeypatch.setattr(evaluator, "run", lambda: None)
    evaluator.score(MagicMock())
    assert len(begun) == expected


def test_a_cpu_records_nothing(make_scorer: MakeScorer) -> None:
    scorer = make_scorer()
    with scorer.recording():
        assert scorer.recorded is None


def test_what_leaves_the_range_of_16_bits_is_scored_in_32(
    either: AnomalyScorer, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, evidence, seen = make_images(3), either.detector.evidence, []
    images[0] *= 0.1

    def overflowing(output: Any, inputs: Any) -> Any:
        seen.append(output.reconstruction.dtype)
        found = evidence(output, inputs)
        if seen[-1] == torch.bfloat16 and (inputs.image.amax(dim=(-2, -1)) < 0.1).any():
            found.maps["head"].fill_(torch.inf)
        return found

    monkeypatch.setattr("networks.scorer.scoring_type", lambda device: torch.bfloat16)
    monkeypatch.setattr(either.detector, "evidence", overflowing)
    with torch.no_grad():
        found = ScoreSlices(1)(images, either)
        told = seen[:]
        either.amp = False
        expected = ScoreSlices(1)(images, either)
    half, full = torch.bfloat16, torch.float32
    assert told == ([half, full] if isinstance(either, PatchScorer) else [half, full, half, half])
    assert torch.equal(found["score"][0], expected["score"][0])
    torch.testing.assert_close(found["score"], expected["score"], atol=0.5, rtol=0.0)


def test_slices_score_alike_in_any_batches(scorer: AnomalyScorer, make_images: MakeImages) -> None:
    images = make_images(5, seed=1)
    with torch.no_grad():
        whole = ScoreSlices(8)(images, scorer)
        parts = ScoreSlices(2)(images, scorer)
    assert set(whole) == {
        *score_columns(scorer),
        "flagged",
        "anomaly_map",
        "map_flow",
        "map_recon",
        "reconstruction",
    }
    columns = ("score", "flow_score", "recon_score", "density_score", "percentile", "p_value")
    assert score_columns(scorer) == columns
    for name, value in whole.items():
        assert len(value) == 5, name
        torch.testing.assert_close(value, parts[name], atol=1e-4, rtol=1e-4)
    assert whole["anomaly_map"].shape == (5, 32, 32)


def test_an_ensemble_says_how_far_it_disagrees(
    cases: list[Case], make_images: MakeImages, calibrate: Calibrate, tmp_path: Path
) -> None:
    config = {"flow_strides": (8,), "flow_steps": 1, "hidden": 8, "decoder_width": 4}
    detector = DETECTORS["ensemble"](member="aeflow", ensemble=2, normative=False, **config)
    scorer = calibrate(AnomalyScorer(detector, make_fusion()).eval(), make_images(6))
    volume, picture = evaluated(scorer, cases)["cases"]
    for one in (volume, picture):
        with torch.no_grad():
            alone = scorer.score_image(one.sample.images)
        std = alone.members.std(dim=1)
        np.testing.assert_allclose(one.scores["score_std"], std, atol=1e-4, rtol=1e-3)
        native = to_native(alone.std_map[:, 0], one.sample.geometry)
        np.testing.assert_allclose(one.std_map, native, atol=1e-3, rtol=1e-3)
        top = [int(alone.score.argmax())]  # a tenth of up to five slices
        expected = float(alone.members[top].mean(dim=0).std())
        assert one.case_score.score_std == pytest.approx(expected, abs=1e-3)
        assert one.case_score.as_dict()["score_std"] == one.case_score.score_std
    written = write_maps(tmp_path, volume, 1.0)
    assert [path.name for path in written] == ["a_anomaly.nii.gz", "a_mask.nii.gz", "a_std.nii.gz"]
    anomaly, std_map = nib.load(written[0]), nib.load(written[2])
    assert np.array_equal(anomaly.affine, std_map.affine) and anomaly.shape == std_map.shape
    np.testing.assert_allclose(std_map.get_fdata(), volume.on_grid(volume.std_map), rtol=1e-5)


def test_each_case_gets_its_own_scores_and_maps(scorer: AnomalyScorer, cases: list[Case]) -> None:
    scored = evaluated(scorer, cases, inferer=ScoreSlices(4))["cases"]
    assert [one.sample.case.name for one in scored] == ["a", "b"]
    for one in scored:
        sample = one.sample
        with torch.no_grad():
            alone = scorer.score_image(sample.images)
        np.testing.assert_allclose(one.scores["score"], alone.score, atol=1e-4, rtol=1e-4)
        assert set(one.scores) == {"score", "percentile", "p_value"}
        assert set(one.parts) == {"flow", "recon", "density"}
        for name, values in one.parts.items():
            np.testing.assert_allclose(values, alone.parts[name], atol=1e-4, rtol=1e-4)
        np.testing.assert_array_equal(one.flagged, alone.score > scorer.calibration.threshold)
        assert one.anomaly_map.shape == (len(sample.images), 24, 24)  # the file's own resolution
        native = to_native(alone.anomaly_map[:, 0], sample.geometry)
        np.testing.assert_allclose(one.anomaly_map, native, atol=1e-3, rtol=1e-3)
        assert set(one.canvas_maps) == {"anomaly_map", "map_flow", "map_recon"}
        assert one.reconstruction.shape == sample.images.shape


def test_a_volume_is_judged_by_held_out_volumes(scorer: AnomalyScorer, cases: list[Case]) -> None:
    reference = CaseReference((-1e6, 1e6), 0.5)
    (volume,) = evaluated(scorer, cases[:1], reference=reference)["cases"]
    assert volume.case_score == score_volume(volume.scores["score"], volume.parts, reference)
    assert volume.case_score.percentile == 50.0 and volume.case_score.n_normal == 2
    (bare,) = evaluated(scorer, cases[:1])["cases"]
    assert bare.case_score.flagged is None and bare.case_score.percentile is None


def test_a_picture_s_score_is_its_own(scorer: AnomalyScorer, cases: list[Case]) -> None:
    (picture,) = evaluated(scorer, cases[1:], reference=CaseReference((1e6,), 0.5))["cases"]
    whole = picture.case_score
    assert whole.score == picture.scores["score"][0]
    assert whole.percentile == picture.scores["percentile"][0]
    assert whole.parts == {name: values[0] for name, values in picture.parts.items()}
    assert whole.flagged is bool(picture.flagged[0])
    assert whole.threshold == pytest.approx(float(scorer.calibration.threshold))
    assert whole.target_fpr == pytest.approx(0.2) and whole.n_normal == 6


def test_a_head_adds_its_part(make_scorer: MakeScorer, cases: list[Case]) -> None:
    scored = evaluated(make_scorer(with_head=True), cases)["cases"]
    for one in scored:
        assert "head" in one.parts and "head" in one.case_score.parts
        assert math.isfinite(one.case_score.parts["head"])


def test_what_cannot_be_read_is_handed_on(scorer: AnomalyScorer, cases: list[Case]) -> None:
    missing = Case("c", "pc", (cases[0].images[0].with_name("none.nii.gz"),))
    output = evaluated(scorer, [cases[0], missing, cases[1]])
    assert [one.sample.case.name for one in output["cases"]] == ["a", "b"]
    (failed,) = output["failures"]
    assert isinstance(failed, FailedCase) and failed.case == missing and "none" in failed.reason
    assert evaluated(scorer, [missing])["cases"] == []
    assert score_cases(scorer, [], ScoreSlices(4), "cpu") == []


def test_evaluation_mode_is_kept_to(scorer: AnomalyScorer, cases: list[Case]) -> None:
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    expected = evaluated(scorer, cases)["cases"][0].scores["score"]
    found = evaluated(scorer.train(), cases)["cases"][0].scores["score"]
    assert found.tolist() == expected.tolist()
    assert all(torch.equal(value, before[name]) for name, value in scorer.state_dict().items())


def body_with_a_hole() -> np.ndarray:
    """Two slices without body, one of them before the others; a hole inside; a corner outside."""
    values = np.random.default_rng(0).uniform(50, 100, (24, 20, 6)).astype(np.float32)
    values[:4] = values[-4:] = values[:, :4] = values[:, -4:] = 0
    values[10:13, 9:12] = 0
    values[..., 0] = values[..., 3] = 0
    return values


@pytest.mark.parametrize("image_size", [24, 32])
def test_the_grid_map_is_the_map_inside_the_outline_of_the_body(
    write_volume: WriteVolume, fake_scored: FakeScored, image_size: int
) -> None:
    values = body_with_a_hole()
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    case = Case("a", "pa", (write_volume("a", values, affine=affine),))
    sample = CaseLoader(image_size)(case)
    assert sample.indices.tolist() == [1, 2, 4, 5]
    canvas = torch.rand(4, image_size, image_size) + 1
    native = to_native(canvas, sample.geometry).numpy()
    scored = fake_scored(sample, anomaly_map=native)
    grid = scored.grid_map
    assert scored.grid_map is grid  # found once for all writers
    assert grid.shape == values.shape and grid.dtype == torch.float32
    np.testing.assert_allclose(grid.affine, affine)
    assert (grid[..., 0] == 0).all() and (grid[..., 3] == 0).all()
    for position, index in enumerate(sample.indices.tolist()):
        stored = grid.as_tensor()[..., index].numpy()
        # This LPS volume runs from right to left and from front to back: slices are (Y, X).
        expected = native[position].T
        assert (stored[4:-4, 4:-4] == expected[4:-4, 4:-4]).all()  # the hole included
        outside = np.ones_like(stored, dtype=bool)
        outside[4:-4, 4:-4] = False
        assert (stored[outside] == 0).all() and (expected[outside] > 0).all()


AFFINES = {
    "RAS": np.diag([1.0, 1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "SRA": np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float),
    "PIL": np.array([[0, 0, -1, 5], [-1, 0, 0, 7], [0, -1, 0, 9], [0, 0, 0, 1]], dtype=float),
}


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("orientation", AFFINES)
def test_a_map_value_lands_on_its_own_voxel(
    write_volume: WriteVolume, fake_scored: FakeScored, orientation: str, axis: Any
) -> None:
    shape = (6, 7, 8)
    codes = np.arange(1.0, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
    path = write_volume("codes", codes, affine=AFFINES[orientation])
    loader = CaseLoader(16, axis=axis, intensity="percentile", min_body_fraction=0.0)
    sample = loader(Case("a", "pa", (path,)))
    raw = loader.slicer.native(read_case([path]))[:, 0]
    whole = torch.ones_like(raw, dtype=torch.bool)
    scored = fake_scored(replace(sample, body=whole), anomaly_map=raw.numpy())
    assert (scored.grid_map.as_tensor().numpy() == codes).all()


def test_a_picture_s_grid_map_is_its_map(fake_scored: FakeScored, cases: list[Case]) -> None:
    sample = CaseLoader(32)(cases[1])
    native = np.random.default_rng(0).normal(size=(1, 24, 24)).astype(np.float32)
    found = fake_scored(sample, anomaly_map=native).grid_map
    assert found.shape == (24, 24) and (found.as_tensor().numpy() == native[0]).all()


def test_outlines_are_filled_as_by_scipy() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.3, 0.6, 1.0):
        body = rng.uniform(size=(20, 24)) < share
        np.testing.assert_array_equal(_filled(body), binary_fill_holes(body))

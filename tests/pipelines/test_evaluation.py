"""Scoring cases."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from PIL import Image
from torch import Tensor

from networks import AnomalyScorer
from pipelines.baselines import BASELINES
from pipelines.cases import Case
from pipelines.datasets import CaseDataset, CaseLoader, case_loader
from pipelines.evaluation import (
    SCORE_COLUMNS,
    CaseEvaluator,
    ResultCollector,
    ScoredCase,
    score_slices,
    slice_rows,
)
from transforms.slices import to_native

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
Calibrate = Callable[[AnomalyScorer, Tensor], AnomalyScorer]
WriteVolume = Callable[..., Path]


@pytest.fixture
def cases(write_volume: WriteVolume, tmp_path: Path) -> list[Case]:
    """A volume whose slices 3 and 4 show a lesion (1 shows too little), and a picture."""
    mask = np.zeros((24, 24, 5), dtype=np.uint8)
    mask[8, 8, 1] = 1
    mask[6:12, 6:12, 3:] = 1
    volume = Case(
        "a", "pa", (write_volume("a", shape=(24, 24, 5)),), mask=write_volume("mask", mask)
    )
    levels = np.random.default_rng(0).integers(1, 256, (24, 24), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "b.png")
    return [volume, Case("b", "pb", (tmp_path / "b.png",), label=0)]


@pytest.fixture
def scorer(make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate) -> AnomalyScorer:
    return calibrate(make_scorer(), make_images(6))


def evaluate(
    scorer: AnomalyScorer, cases: list[Case], **kwargs: Any
) -> tuple[ResultCollector, list[ScoredCase]]:
    collector, scored = ResultCollector(), []
    loader = case_loader(CaseDataset(cases, CaseLoader(32, with_baselines=True)), len(cases))
    evaluator = CaseEvaluator(
        scorer,
        device=torch.device("cpu"),
        val_data_loader=loader,
        val_handlers=[collector],
        **kwargs,
    )
    evaluator.run()
    scored = list(evaluator.state.output["cases"])
    return collector, scored


def test_slices_score_alike_in_any_batches(scorer: AnomalyScorer, make_images: MakeImages) -> None:
    images = make_images(5, seed=1)
    with torch.no_grad():
        whole = score_slices(scorer, images, 8, "cpu")
        parts = score_slices(scorer, images, 2, "cpu")
    assert set(whole) == {
        *(name for name in SCORE_COLUMNS if name != "head_score"),
        "flagged",
        "anomaly_map",
        "map_flow8",
        "map_recon",
        "reconstruction",
    }
    for name, value in whole.items():
        assert len(value) == 5, name
        torch.testing.assert_close(value, parts[name], atol=1e-4, rtol=1e-4)
    assert whole["anomaly_map"].shape == (5, 32, 32)


def test_each_case_gets_its_own_scores_and_maps(scorer: AnomalyScorer, cases: list[Case]) -> None:
    collector, scored = evaluate(scorer, cases, batch_size=4)
    assert [one.sample.case.name for one in scored] == ["a", "b"]
    for one in scored:
        sample = one.sample
        with torch.no_grad():
            alone = scorer.score_image(sample.images)
        np.testing.assert_allclose(one.scores["score"], alone.score, atol=1e-4, rtol=1e-4)
        np.testing.assert_array_equal(one.flagged, alone.score > scorer.threshold)
        assert one.anomaly_map.shape == (len(sample.images), 24, 24)  # the file's own resolution
        native = to_native(alone.anomaly_map[:, 0], sample.geometry)
        np.testing.assert_allclose(one.anomaly_map, native, atol=1e-3, rtol=1e-3)
        assert set(one.canvas_maps) == {"anomaly_map", "map_flow8", "map_recon"}
        assert one.reconstruction.shape == sample.images.shape
    assert [(row["case"], row["slice"], row["label"]) for row in collector.rows] == [
        ("a", 0, 0),
        ("a", 1, ""),
        ("a", 2, 0),
        ("a", 3, 1),
        ("a", 4, 1),
        ("b", 0, 0),
    ]


def test_rows_hold_scores_flags_and_baselines(scorer: AnomalyScorer, cases: list[Case]) -> None:
    collector, (volume, _) = evaluate(scorer, cases)
    columns = {"case", "patient", "slice", "label", "flagged", *SCORE_COLUMNS, *BASELINES}
    assert all(set(row) == columns - {"head_score"} for row in collector.rows)
    assert collector.column("patient") == ["pa"] * 5 + ["pb"]
    assert collector.column("score")[:5] == volume.scores["score"].tolist()
    flags = [int(score > float(scorer.threshold)) for score in collector.column("score")]
    assert collector.column("flagged") == flags
    assert volume.sample.baselines is not None
    spread = volume.sample.baselines.scores["spread"].tolist()
    assert collector.column("spread")[:5] == spread
    plain = replace(volume, sample=replace(volume.sample, baselines=None))
    assert not set(BASELINES) & set(next(iter(slice_rows(plain))))


def test_a_head_adds_its_column(make_scorer: MakeScorer, cases: list[Case]) -> None:
    collector, _ = evaluate(make_scorer(with_head=True), cases[1:])
    assert "head_score" in collector.rows[0]


def test_pixels_of_judged_slices_count_inside_the_body(
    scorer: AnomalyScorer, cases: list[Case]
) -> None:
    collector, (volume, picture) = evaluate(scorer, cases)
    assert collector.pixels.patients == ("pa", "pb")
    pixels, regions = collector.pixels.arrays()
    body = int((volume.sample.raw[0] > 0).sum())
    lesion = 2 * 36
    assert pixels[0].sum(axis=1).tolist() == [4 * body - lesion, lesion]
    assert pixels[1].sum(axis=1).tolist() == [24 * 24, 0]  # a normal picture has an empty mask
    assert regions.sum(axis=1).tolist() == pytest.approx([2, 0])
    assert collector.baseline_pixels.patients == ("pa",)
    threshold = float(scorer.pixel_threshold)
    assert np.isclose(collector.pixels.edges, threshold, atol=0).any()  # decisions are exact
    judged = volume.anomaly_map[[0, 2, 3, 4]]
    inside = (volume.sample.raw[[0, 2, 3, 4], 0] > 0).numpy()
    above = int((judged[inside] > threshold).sum())
    first = int(np.argmin(np.abs(collector.pixels.edges - threshold)))
    assert pixels[0][:, first:].sum() == above


def test_an_anomalous_picture_without_mask_counts_no_pixels(
    scorer: AnomalyScorer, cases: list[Case]
) -> None:
    collector, _ = evaluate(scorer, [replace(cases[1], label=1)])
    assert collector.pixels.patients == ()
    unknown, _ = evaluate(scorer, [replace(cases[1], label=None)])
    assert unknown.column("label") == [""] and unknown.pixels.patients == ()


def test_a_second_run_starts_afresh(scorer: AnomalyScorer, cases: list[Case]) -> None:
    collector = ResultCollector()
    loader = case_loader(CaseDataset(cases, CaseLoader(32)))
    evaluator = CaseEvaluator(
        scorer, device="cpu", val_data_loader=loader, val_handlers=[collector]
    )
    evaluator.run()
    first = collector.rows
    pixels = collector.pixels.arrays()[0].sum()
    evaluator.run()
    assert collector.rows == first and len(first) == 6
    assert collector.pixels.arrays()[0].sum() == pixels


def test_the_collector_keeps_no_maps(scorer: AnomalyScorer, cases: list[Case]) -> None:
    collector = ResultCollector()
    seen: list[Any] = []
    loader = case_loader(CaseDataset(cases, CaseLoader(32)))
    evaluator = CaseEvaluator(
        scorer, device="cpu", val_data_loader=loader, val_handlers=[collector]
    )

    def watch(engine: Any) -> None:
        for one in engine.state.output["cases"]:
            seen.extend([weakref.ref(one), weakref.ref(one.canvas_maps["anomaly_map"])])

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, watch)
    evaluator.run()
    evaluator.state.output = evaluator.state.batch = None
    gc.collect()
    assert len(seen) == 4 and all(reference() is None for reference in seen)
    assert len(collector.examples.examples()) == 2


def test_evaluation_mode_is_kept_to(scorer: AnomalyScorer, cases: list[Case]) -> None:
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    evaluate(scorer.train(), cases)
    assert all(torch.equal(value, before[name]) for name, value in scorer.state_dict().items())

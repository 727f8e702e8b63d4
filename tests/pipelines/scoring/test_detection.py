"""How many synthetic anomalies are found, by kind and size."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from networks import AnomalyScorer
from pipelines.common.seeding import generator
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.scoring import detection
from pipelines.scoring.detection import SIZES, SyntheticDetection, measure_detection
from transforms.fillings import FILLINGS
from transforms.recipe import recipe_for
from transforms.synthetic import SyntheticAnomalies

Measure = Callable[..., SyntheticDetection]
KINDS = ("haze", "reticular")
SYNTHETIC = SyntheticAnomalies(recipe_for("body"))


@pytest.fixture(autouse=True)
def _two_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "MOST_IMAGES", 48)  # the bundle's tests take fewer
    monkeypatch.setattr(SyntheticAnomalies, "known", KINDS)


@pytest.fixture
def scorer(
    make_scorer: Callable[..., AnomalyScorer],
    make_images: Callable[..., Tensor],
    calibrate: Callable[..., AnomalyScorer],
) -> AnomalyScorer:
    return calibrate(make_scorer(with_head=True), make_images(10))


@pytest.fixture
def measure(
    scorer: AnomalyScorer,
    make_images: Callable[..., Tensor],
    make_slices: Callable[..., NormalSlices],
) -> Measure:
    def run(batch_size: int = 4, seed: int = 0) -> SyntheticDetection:
        loader = slice_loader(make_slices(make_images(10)), batch_size)
        patients = [f"p{n // 2}" for n in range(10)]
        return measure_detection(scorer, loader, patients, SYNTHETIC, seed, "cpu")

    return run


def test_every_kind_and_size_is_tried(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SyntheticAnomalies, "known", tuple(FILLINGS))
    found = measure()
    assert [(row.kind, row.size) for row in found.rows] == [(k, s) for k in FILLINGS for s in SIZES]
    assert (found.images, found.patients) == (10, 5)
    assert found.diameters == {"small": (2, 4), "medium": (4, 8), "large": (8, 16)}
    assert set(FILLINGS) - set(found.practised) == {"reticular", "flattened"}
    told = found.as_dict()
    assert told["rows"][0]["kind"] == "opacity" and "nothing sure" in told["caveat"]


@pytest.mark.parametrize(("size", "radius"), [("small", (0.03, 0.06)), ("large", (0.12, 0.25))])
def test_the_figures_are_those_of_the_same_images(
    size: str,
    radius: tuple[float, float],
    measure: Measure,
    scorer: AnomalyScorer,
    make_images: Callable[..., Tensor],
) -> None:
    images = make_images(10)
    recipe = replace(
        recipe_for("body"), clean_share=0.0, second_share=0.0, fillings=("haze",), radius=radius
    )
    source = generator(0, f"detection haze {size}")
    changed, mask = SyntheticAnomalies(recipe)(images, images > 0, images > 0, source)
    with torch.no_grad():
        plain, ill = scorer.score_image(images), scorer.score_image(changed)
    shows = mask.flatten(1).any(dim=1)
    found = measure()
    (row,) = [row for row in found.rows if (row.kind, row.size) == ("haze", size)]
    assert row.n == shows.sum() > 0 and (row.n < 10) == (size == "small")
    assert row.flagged == pytest.approx(ill.flagged[shows].float().mean().item())
    labels = [1] * row.n + [0] * row.n
    scores = torch.cat([ill.score[shows], plain.score[shows]])
    assert row.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1.1 / row.n**2)  # a pair
    assert found.flagged_without == pytest.approx(plain.flagged.float().mean().item())


def test_it_depends_on_the_seed_and_not_on_the_batches(measure: Measure) -> None:
    first = measure()
    for one, other in zip(first.rows, measure(batch_size=7).rows, strict=True):
        assert one.n == other.n and one.auroc == pytest.approx(other.auroc, abs=0.02)
    assert first.rows == measure().rows != measure(seed=1).rows


def test_an_anomaly_that_does_not_show_is_not_counted(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unchanged(image: Tensor, *given: Any) -> Tensor:
        return image

    monkeypatch.setattr(SyntheticAnomalies, "known", ("haze",))
    monkeypatch.setattr("transforms.synthetic.FILLINGS", {"haze": unchanged})
    found = measure()
    assert [(row.n, row.flagged, row.auroc) for row in found.rows] == [(0, None, None)] * 3
    assert found.flagged("small") is None


def test_many_images_are_taken_evenly_and_sizes_are_joined(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "MOST_IMAGES", 3)
    found = measure()
    assert found.images == 3 and found.patients == 3 and max(row.n for row in found.rows) == 3
    rows = [row for row in found.rows if row.size == "large"]
    flagged = sum((row.flagged or 0.0) * row.n for row in rows)
    assert found.flagged("large") == pytest.approx(flagged / sum(row.n for row in rows))


def test_a_detector_without_pre_training_has_practised_nothing(
    make_scorer: Callable[..., AnomalyScorer],
    make_images: Callable[..., Tensor],
    make_slices: Callable[..., NormalSlices],
    calibrate: Callable[..., AnomalyScorer],
) -> None:
    images = make_images(6)
    scorer = calibrate(make_scorer(), images)
    loader = slice_loader(make_slices(images), 4)
    assert measure_detection(scorer, loader, list("abcdef"), SYNTHETIC, 0, "cpu").practised == []

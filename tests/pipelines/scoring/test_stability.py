"""How scores move where an image is changed a little."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from networks import AnomalyScorer
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.scoring.stability import MOST_IMAGES, measure_stability
from transforms.mild import mild_changes


def test_every_change_is_measured_against_none(
    make_scorer: Callable[..., AnomalyScorer],
    make_images: Callable[..., Tensor],
    make_slices: Callable[..., NormalSlices],
    calibrate: Callable[..., AnomalyScorer],
) -> None:
    images = make_images(10)
    scorer = calibrate(make_scorer(), images)
    found = measure_stability(scorer, slice_loader(make_slices(images), 4), "cpu", 2.0)
    assert [one.change for one in found] == ["none", *mild_changes()]
    none, *others = found
    assert (none.changed, none.shift, set(none.parts.values())) == (0.0, 0.0, {0.0})
    with torch.no_grad():
        plain = scorer.score_image(images)
        noisy = scorer.score_image(mild_changes(2.0)["noise"](images[:4]))
    assert none.flagged == pytest.approx(float(plain.flagged.float().mean()))
    assert all(one.shift != 0 for one in others)
    assert abs(found[2].parts["recon"]) > 0 and torch.isfinite(noisy.score).all()
    assert set(found[1].as_dict()) == {
        "change", "flagged", "changed", "score", "flow_score", "recon_score", "density_score",
    }  # fmt: skip


def test_many_images_are_looked_at_evenly(
    make_scorer: Callable[..., AnomalyScorer],
    make_images: Callable[..., Tensor],
    make_slices: Callable[..., NormalSlices],
    calibrate: Callable[..., AnomalyScorer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipelines.scoring.stability.MOST_IMAGES", 5)
    images = make_images(10)
    scorer, seen = calibrate(make_scorer(), images), []
    score = scorer.score_image
    monkeypatch.setattr(
        scorer, "score_image", lambda image, context: (seen.append(len(image)), score(image))[1]
    )
    measure_stability(scorer, slice_loader(make_slices(images), 4), "cpu")
    assert sum(seen) == 5 * (1 + len(mild_changes())) and MOST_IMAGES > 5

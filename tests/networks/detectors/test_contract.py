"""What every method owes: AE-FLOW, and toys that strain the contract."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from networks import DETECTORS, AnomalyScorer, Detector, Inputs, WeightedFusion
from networks.detectors import register
from networks.exported import ExportedScorer

MakeImages = Callable[..., Tensor]
TOYS = Path(__file__).parent / "toys"
CONFIGS: dict[str, dict[str, Any]] = {
    "aeflow": {
        "flow_strides": (8,), "flow_steps": 1, "hidden": 8, "decoder_width": 4, "with_head": True,
    },
    "ensemble": {
        "member": "aeflow", "flow_strides": (8,), "flow_steps": 1, "hidden": 8, "decoder_width": 4,
        "with_head": True,
    },
    "deep_svdd": {"boundary": "soft"},
    "dagmm": {},
    "fastflow": {"strides": (8,), "steps": 2},
    "padim": {"features": 20},
    "patchcore": {"bank_size": 50},
    "anatpaste": {},
    "ae": {"width": 8, "code": 8},
    "dae": {"width": 8},
    "vae": {"image_size": 32, "width": 8, "latent": 8},
    "anogan": {"image_size": 32, "width": 8, "latent": 8, "steps": 10},
    "fanogan": {"image_size": 32, "width": 8, "latent": 8},
    "adgan": {"image_size": 32, "width": 8, "latent": 8, "steps": 3, "starts": 2},
    "atlas": {"image_size": 32, "width": 8, "classes": 3, "templates": 2},
    "mean_image": {"image_size": 32},
    "bank": {},
    "adversaries": {},
    "search": {"image_size": 32},
}  # fmt: skip


class Images:
    """Batches of given images."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __iter__(self) -> Iterator[Inputs]:
        return (Inputs(batch) for batch in self.images.split(4))

    def spread(self, count: int) -> Inputs:
        return Inputs(self.images[:count])


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    method: str = request.param
    toy = (TOYS / f"{method}.py").is_file()
    if toy:
        spec = importlib.util.spec_from_file_location(f"toys.{method}", TOYS / f"{method}.py")
        assert spec is not None and spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    yield method
    if toy:
        del DETECTORS[method]


@pytest.fixture
def fitted(name: str, make_images: MakeImages) -> Detector:
    detector = DETECTORS[name](in_channels=1, **CONFIGS[name])
    images = Images(make_images(12))
    for stage in detector.stages:
        detector.prepare(images, stage.name)
    detector.prepare(images, None)
    return detector.eval()


def scorer_of(detector: Detector) -> AnomalyScorer:
    maps = {part.name: 1.0 for part in detector.parts if part.maps}
    return AnomalyScorer(detector, WeightedFusion({p.name: 1.0 for p in detector.parts}, maps))


def test_evidence_covers_the_parts(fitted: Detector, make_images: MakeImages) -> None:
    inputs = Inputs(make_images(3, seed=1))
    with torch.no_grad():
        found = fitted.evidence(fitted(inputs), inputs)
    for part in fitted.parts:
        for one in part.maps:
            assert found.maps[one].shape[:2] == (3, 1), one
        if part.pool is None:
            assert found.values[part.name].shape == (3,)
    if found.reconstruction is not None:
        assert found.reconstruction.shape == inputs.image.shape


def test_a_batch_scores_like_its_images(fitted: Detector, make_images: MakeImages) -> None:
    scorer, image = scorer_of(fitted), make_images(3, seed=1)
    with torch.no_grad():
        together = scorer.score_image(image)
        alone = [scorer.score_image(one[None]) for one in image]
    expected = torch.cat([one.score for one in alone])
    torch.testing.assert_close(together.score, expected, atol=1e-5, rtol=1e-5)
    expected = torch.cat([one.anomaly_map for one in alone])
    torch.testing.assert_close(together.anomaly_map, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
def test_a_gpu_scores_alike_at_once(fitted: Detector, make_images: MakeImages) -> None:
    scorer, given = scorer_of(fitted).cuda(), make_images(20, seed=1).cuda().split(4)
    with torch.no_grad():
        expected = [scorer.score_image(image) for image in given]
        with scorer.recording():
            for image, one in zip(given, expected, strict=True):
                found = scorer.score_image(image)
                torch.testing.assert_close(found.score, one.score, atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(found.anomaly_map, one.anomaly_map, atol=1e-3, rtol=1e-3)
            graphs = scorer.recorded.graphs if scorer.recorded else None
    assert scorer.recorded is None
    if fitted.name.startswith("aeflow"):
        assert graphs


def test_config_and_state_rebuild_it(fitted: Detector, make_images: MakeImages) -> None:
    twin = DETECTORS[fitted.name](**fitted.config)
    twin.load_state_dict(fitted.state_dict())
    image = make_images(2, seed=1)
    with torch.no_grad():
        expected = scorer_of(fitted).score_image(image)
        found = scorer_of(twin.eval()).score_image(image)
    torch.testing.assert_close(found.score, expected.score)
    torch.testing.assert_close(found.anomaly_map, expected.anomaly_map)


def test_it_can_be_exported_for_batches_of_any_size(
    fitted: Detector, make_images: MakeImages
) -> None:
    if not fitted.exportable or fitted.name.startswith(("aeflow", "ensemble")):
        return  # theirs is tested with the formats
    scorer, image = scorer_of(fitted), make_images(3, seed=1)
    scorer.calibration.n_normal.fill_(1)
    module, sizes = ExportedScorer(scorer, (32, 32)), ({0: torch.export.Dim("batch")},)
    exported: Any = torch.export.export(module, (image[:2],), dynamic_shapes=sizes).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(image), module(image), atol=1e-5, rtol=1e-5)


def test_each_stage_lowers_what_its_groups_minimise(
    fitted: Detector, make_images: MakeImages
) -> None:
    inputs, mask = Inputs(make_images(4)), torch.zeros(4, 1, 32, 32)
    for stage in fitted.stages:
        fitted.prepare(Images(make_images(12)), stage.name)
        terms = fitted.loss(fitted(inputs, stage=stage.name), inputs, stage.name, mask)
        assert tuple(terms) == stage.terms and set(stage.groups) <= set(terms)
        for term, group in stage.groups.items():
            gradients = torch.autograd.grad(
                terms[term], list(group), retain_graph=True, allow_unused=True
            )
            assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients), term


def test_forward_and_loss_read_nothing_back(
    fitted: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none there
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    detector = fitted.to("meta")  # where tensors have no values; on a GPU, reading one waits for it
    image, mask = torch.empty(2, 4, 1, 32, 32, device="meta")
    for stage in detector.stages:
        output = detector(Inputs(image), stage=stage.name)
        detector.loss(output, Inputs(image), stage.name, mask)
    detector(Inputs(image))


def test_the_memory_format_of_a_gpu_changes_nothing(
    fitted: Detector, make_images: MakeImages
) -> None:
    image = make_images(3, seed=1)
    with torch.no_grad():
        expected = scorer_of(fitted).score_image(image).score
        fitted.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = Inputs(image.contiguous(memory_format=torch.channels_last))
        found = scorer_of(fitted).score_image(inputs.image).score
        mask = torch.zeros_like(inputs.image)
        for stage in fitted.stages:
            terms = fitted.loss(fitted(inputs, stage=stage.name), inputs, stage.name, mask)
            assert all(value.isfinite() for value in terms.values())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_cached_features_change_nothing(fitted: Detector, make_images: MakeImages) -> None:
    inputs = Inputs(make_images(2))
    for stage in fitted.stages:
        if stage.cached:
            with torch.no_grad():
                features = fitted.encode(inputs)
                found = fitted.loss(fitted(inputs, features, stage.name), inputs, stage.name)
                expected = fitted.loss(fitted(inputs, stage=stage.name), inputs, stage.name)
            torch.testing.assert_close(found, expected)


def test_a_name_that_is_taken_is_refused() -> None:
    class Other(Detector):
        pass

    with pytest.raises(ValueError, match="name: 'aeflow' is taken by AEFlowDetector"):
        register("aeflow")(Other)

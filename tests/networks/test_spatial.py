"""Signals and volumes: what holds for images of two axes holds for one and three."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from networks import DETECTORS, AnomalyScorer, Detector, Inputs, build_aeflow, make_fusion
from networks.detectors.aeflow import AEFlowDetector
from networks.encoder import ENCODERS, Encoder
from networks.errors import ArgumentError
from networks.exported import ExportedScorer
from networks.scope import REASONS, Scope
from networks.spatial import MEMORY_FORMATS, breadth, mean_in_cells, multiplied, resized

SIZES = {1: (48,), 3: (16, 32, 16)}
SMALL: dict[str, Any] = {"flow_strides": (8,), "flow_steps": 1, "hidden": 8, "decoder_width": 2}
BARE: dict[str, Any] = {"strides": (4,), "with_head": False}
METHODS: dict[str, dict[str, Any]] = {
    "aeflow": {**SMALL, "with_head": True, "labels": "masks", "contrast": "local"},
    "ensemble": {"member": "aeflow", **SMALL},
    "fastflow": {**BARE, "steps": 2},
    "padim": {**BARE, "features": 10},
    "patchcore": {"strides": (4, 8), "with_head": False, "bank_size": 20},
    "anatpaste": {},
    "deep_svdd": {},
    "ae": {"width": 8, "code": 8},
}


class Images:
    """Batches of given images, without a place in a body."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __iter__(self) -> Iterator[Inputs]:
        return (self._inputs(batch) for batch in self.images.split(4))

    def spread(self, count: int) -> Inputs:
        return self._inputs(self.images[:count])

    def _inputs(self, images: Tensor) -> Inputs:
        return Inputs(images)


def images_of(spatial_dims: int, count: int = 6, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.rand(count, 2, *SIZES[spatial_dims], generator=source)


def fitted(method: str, spatial_dims: int) -> Detector:
    options = METHODS[method]
    detector = DETECTORS[method](in_channels=2, spatial_dims=spatial_dims, **options)
    for stage in (*(one.name for one in detector.stages), None):
        detector.prepare(Images(images_of(spatial_dims)), stage)
    return detector.eval()


# The others' three axes are those of the modules that they share with these.
CASES = [*((name, 1) for name in METHODS), ("aeflow", 3), ("patchcore", 3), ("ae", 3)]


@pytest.mark.parametrize(("method", "spatial_dims"), CASES)
def test_a_method_learns_and_scores(method: str, spatial_dims: int) -> None:
    detector, image = fitted(method, spatial_dims), images_of(spatial_dims, 3, seed=1)
    size = SIZES[spatial_dims]
    assert detector.config["spatial_dims"] == detector.spatial_dims == spatial_dims
    torch.testing.assert_close(detector.restore(detector.normalize(image), image), image)
    mask = torch.zeros(3, 1, *size)
    mask[1, ..., :9] = 1.0
    for stage in detector.stages:
        detector.prepare(Images(image), stage.name)
        terms = detector.loss(
            detector(Inputs(image), stage=stage.name), Inputs(image), stage.name, mask
        )
        for term, group in stage.groups.items():
            found = torch.autograd.grad(
                terms[term], list(group), retain_graph=True, allow_unused=True
            )
            assert any(g is not None and bool(g.any()) for g in found), term
    scorer = AnomalyScorer(detector, make_fusion()).eval()
    twin = AnomalyScorer(DETECTORS[method](**detector.config), make_fusion()).eval()
    twin.load_state_dict(scorer.state_dict())
    gpu = image.contiguous(memory_format=MEMORY_FORMATS[spatial_dims])
    with torch.no_grad():
        scores, again = scorer.score_image(image), twin.score_image(gpu)
        alone = torch.cat([scorer.score_image(one[None]).score for one in image])
    assert scores.anomaly_map.shape == (3, 1, *size)
    assert scores.reconstruction is None or scores.reconstruction.shape == image.shape
    for value in (again.score, alone):
        torch.testing.assert_close(value, scores.score, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again.anomaly_map, scores.anomaly_map, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spatial_dims", SIZES)
def test_a_scorer_is_exported_at_its_size(spatial_dims: int) -> None:
    detector = AEFlowDetector(in_channels=2, spatial_dims=spatial_dims, **SMALL).eval()
    scorer, image = AnomalyScorer(detector, make_fusion()), images_of(spatial_dims, 3)
    scorer.calibration.n_normal.fill_(1)
    module = ExportedScorer(scorer, SIZES[spatial_dims])
    sizes = ({0: torch.export.Dim("batch")},)
    exported: Any = torch.export.export(module, (image[:2],), dynamic_shapes=sizes).module()
    with torch.no_grad():
        expected = scorer.score_image(image)
        for found in (module(image), exported(image)):
            torch.testing.assert_close(found[0], expected.anomaly_map, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found[1], expected.score, atol=1e-4, rtol=1e-4)
    with pytest.raises(ArgumentError, match="image: expected shape"):
        module(image[..., :-8])
    with pytest.raises(ArgumentError, match="image_size: expected"):
        ExportedScorer(scorer, (32, 32))


@pytest.mark.parametrize("spatial_dims", SIZES)
def test_the_whole_flow_is_invertible(spatial_dims: int, randomise: Any) -> None:
    network = build_aeflow(in_channels=2, spatial_dims=spatial_dims, **SMALL)
    randomise(network.flows, 1)
    network.initialize_flows(images_of(spatial_dims))
    network.double()
    features, output = (
        one(images_of(spatial_dims, 2, seed=1).double()) for one in (network.encode, network)
    )
    back, log_det = network.flows[0].inverse(output.latents[0])
    torch.testing.assert_close(back, features[0], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(log_det, -output.log_dets[0])
    assert output.log_dets[0].shape == (2, *(side // 8 for side in SIZES[spatial_dims]))


@pytest.mark.parametrize("spatial_dims", SIZES)
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_halve_every_axis(name: str, spatial_dims: int) -> None:
    encoder = Encoder(name, 2, (4, 8), spatial_dims=spatial_dims)
    for feature, channels, stride in zip(
        encoder(images_of(spatial_dims, 1)), encoder.channels, (4, 8), strict=True
    ):
        size = tuple(side // stride for side in SIZES[spatial_dims])
        assert feature.shape == (1, channels, *size) and not feature.requires_grad


@pytest.mark.parametrize(
    ("spatial_dims", "size", "message"),
    [
        (1, (2, 36), "image: expected length divisible by 8, got 36"),
        (1, (2, 8), "image: expected at least 11 pixels along each axis, got 8;"),
        (3, (2, 16, 36, 16), "expected depth, height and width divisible by 8, got 16 x 36 x 16"),
        (3, (2, 8, 32, 32), "expected at least 11 pixels along each axis, got 8 x 32 x 32"),
    ],
)
def test_unfit_sizes_are_told(spatial_dims: int, size: tuple[int, ...], message: str) -> None:
    detector = AEFlowDetector(in_channels=2, spatial_dims=spatial_dims, **SMALL)
    with pytest.raises(ArgumentError, match=message):
        detector(Inputs(torch.rand(1, *size)))
    with pytest.raises(ArgumentError, match=r"image: expected shape \(B, 2, (L|D, H, W)\), got"):
        detector.network(torch.rand(1, 2, 32, 32))


def test_what_is_of_images_alone_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"spatial_dims: expected 1 .*, got 4"):
        AEFlowDetector(spatial_dims=4)
    with pytest.raises(ArgumentError, match="normative: expected false for spatial_dims 1"):
        AEFlowDetector(spatial_dims=1, normative=True, **SMALL)
    with pytest.raises(ArgumentError, match="state_dict: expected none for spatial_dims 1"):
        AEFlowDetector(spatial_dims=1, **SMALL).load_encoder({})


@pytest.mark.parametrize("spatial_dims", SIZES)
def test_the_scope_of_signals_and_volumes(spatial_dims: int) -> None:
    bright = torch.linspace(0.2, 0.8, SIZES[spatial_dims][-1])
    normal, held_out = (0.8 * bright + 0.2 * images_of(spatial_dims, 40, seed) for seed in (0, 1))
    scope = Scope(2, spatial_dims)
    scope.fit(normal, normal, normal**1.1, held_out)
    assert scope(held_out).reason() == ""
    assert scope(1 - held_out).reason() == "it seems inverted"
    assert scope(held_out / 10).reason() in REASONS.values()


def test_grids_are_resized_along_each_axis() -> None:
    line = torch.rand(1, 1, 6)
    finer, cells = resized(line, (12,)), mean_in_cells(line, (3,))
    volume = line[..., None, None].expand(1, 1, 6, 4, 5)
    torch.testing.assert_close(resized(volume, (12, 8, 5))[0, 0, :, 3, 2], finer[0, 0])
    torch.testing.assert_close(mean_in_cells(volume, (3, 2, 1))[0, 0, :, 1, 0], cells[0, 0])
    assert [breadth(torch.zeros(1, 1, *size)) for size in ((9,), (7, 5), (2, 9, 7))] == [9, 5, 7]
    one, matrices = (
        torch.rand(2, 3, 4, 5, 6),
        [torch.rand(7, 4), torch.rand(8, 5), torch.rand(9, 6)],
    )
    expected = torch.einsum("bcxyz,ix,jy,kz->bcijk", one, *matrices)
    torch.testing.assert_close(multiplied(one, matrices), expected)

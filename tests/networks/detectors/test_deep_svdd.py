"""Deep SVDD: its objectives by hand, its centre, its radius, and no bias anywhere."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from networks import Inputs
from networks.detectors.deep_svdd import DeepSVDD, DeepSVDDOutput
from networks.errors import ArgumentError
from pipelines.data import NormalSlices
from pipelines.training import NormalBatches

MakeImages = Callable[..., Tensor]
MakeSlices = Callable[..., NormalSlices]


def loss_of(detector: DeepSVDD, *distances: float) -> float:
    distance = torch.tensor(distances)
    output = DeepSVDDOutput(distance, distance.view(-1, 1, 1, 1))
    return float(detector.loss(output, Inputs(distance), "train")["loss"])


def test_the_objectives_by_hand() -> None:
    assert loss_of(DeepSVDD(), 1.0, 2.0, 6.0) == pytest.approx(3.0)
    # With nu = 1/2 the best R^2 of four lies anywhere between the second and the third.
    soft = DeepSVDD(boundary="soft", nu=0.5)
    assert loss_of(soft, 1.0, 2.0, 4.0, 9.0) == pytest.approx(3 + ((4 - 3) + (9 - 3)) / (0.5 * 4))


def test_the_radius_is_the_best_for_the_batch() -> None:
    distances = torch.rand(41, generator=torch.Generator().manual_seed(0)).tolist()
    for nu in (0.05, 0.1, 0.3):
        found = loss_of(DeepSVDD(boundary="soft", nu=nu), *distances)
        objectives = [
            r + sum(max(0.0, d - r) for d in distances) / (nu * len(distances)) for r in distances
        ]
        assert found == pytest.approx(min(objectives), rel=1e-5)


def test_nothing_has_a_bias_or_learns_a_shift() -> None:
    detector = DeepSVDD()
    assert all(parameter.dim() == 4 for parameter in detector.parameters())
    for module in detector.modules():
        assert getattr(module, "bias", None) is None
        assert not (isinstance(module, nn.BatchNorm2d) and module.affine)


def test_centre_and_radius_are_those_of_the_normal_images(
    make_images: MakeImages, make_slices: MakeSlices
) -> None:
    detector, images = DeepSVDD(boundary="soft", nu=0.25, size=6), make_images(20)
    detector.prepare(NormalBatches(make_slices(images)), "train")
    assert detector.training
    detector.eval()
    mean = detector.network(detector.normalize(images)).mean(dim=(0, 2, 3))
    far = mean.abs() > 0.1
    torch.testing.assert_close(detector.centre.flatten()[far], mean[far])
    assert torch.equal(detector.centre.abs().clamp_min(0.1), detector.centre.abs())
    detector.prepare(NormalBatches(make_slices(images)), None)
    with torch.no_grad():
        output = detector(Inputs(images))
    found = detector.evidence(output, Inputs(images)).values["distance"]
    assert int((found > 0).sum()) == 5
    expected = (
        detector.network(detector.normalize(images)).mean(dim=(2, 3)) - detector.centre[:, 0, 0]
    )
    torch.testing.assert_close(output.distance, expected.square().sum(dim=1))


def test_mistakes_are_told() -> None:
    with pytest.raises(ArgumentError, match="boundary: expected one of 'hard', 'soft', got 'sof'"):
        DeepSVDD(boundary="sof")
    with pytest.raises(ArgumentError, match="nu: expected a share"):
        DeepSVDD(nu=0.0)

"""PaDiM: its Gaussians and distances against numpy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from networks import Inputs
from networks.contrast import gaussian_blur
from networks.detectors.padim import PaDiM
from networks.errors import ArgumentError
from pipelines.data import NormalSlices
from pipelines.training import NormalBatches

MakeImages = Callable[..., Tensor]
MakeSlices = Callable[..., NormalSlices]


def test_distances_are_those_of_numpy(make_images: MakeImages, make_slices: MakeSlices) -> None:
    detector = PaDiM(features=10, strides=(8, 16), with_head=False).eval()
    normal, others = make_images(12, height=48), make_images(2, height=48, seed=1)
    detector.prepare(NormalBatches(make_slices(normal)), None)

    def vectors(images: Tensor) -> np.ndarray:
        fine, coarse = (one.numpy() for one in detector.encode(Inputs(images)))
        coarse = coarse.repeat(2, axis=2).repeat(2, axis=3)
        return np.concatenate([fine, coarse], axis=1)[:, detector.kept.numpy()]

    known, asked = vectors(normal), vectors(others)
    expected = np.empty((2, 1, 6, 4))
    for row, column in np.ndindex(6, 4):
        at = known[:, :, row, column]
        inverse = np.linalg.inv(np.cov(at.T.astype(float)) + 0.01 * np.eye(10))
        apart = asked[:, :, row, column] - at.mean(axis=0)
        expected[:, 0, row, column] = np.sqrt(np.einsum("bi,ij,bj->b", apart, inverse, apart))
    output = detector(Inputs(others))
    np.testing.assert_allclose(output.distance.numpy(), expected, rtol=1e-4)
    found = detector.evidence(output, Inputs(others))
    smoothed = gaussian_blur(output.distance, 4 * 4 / 224)
    torch.testing.assert_close(found.maps["distance"], smoothed)
    torch.testing.assert_close(found.values["distance"], smoothed.amax(dim=(1, 2, 3)))


def test_the_channels_kept_are_a_fixed_random_subset() -> None:
    one, same = PaDiM(features=30), PaDiM(features=30)
    assert torch.equal(one.kept, same.kept) and len(one.kept.unique()) == 30
    assert one.kept.min() < 64 and one.kept.max() >= 64 + 128
    assert len(PaDiM(features=10_000).kept) == 64 + 128 + 256


def test_mistakes_are_told(make_images: MakeImages, make_slices: MakeSlices) -> None:
    detector = PaDiM(features=4, with_head=False).eval()
    detector.prepare(NormalBatches(make_slices(make_images(4))), None)
    with pytest.raises(ArgumentError, match="image: expected 32 x 32 pixels.*got 48 x 32"):
        detector(Inputs(make_images(1, height=48)))
    with pytest.raises(ArgumentError, match="features: expected at least 1, got 0"):
        PaDiM(features=0)

"""PatchCore: its distances against scikit-learn's neighbours, its weighting and its coreset."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from networks import Inputs
from networks.detectors.patchcore import PatchCore, coreset
from networks.errors import ArgumentError
from pipelines.data import NormalSlices
from pipelines.training import NormalBatches

MakeImages = Callable[..., Tensor]
MakeSlices = Callable[..., NormalSlices]


def fitted(images: NormalSlices, **options: int) -> PatchCore:
    detector = PatchCore(with_head=False, **options).eval()
    detector.prepare(NormalBatches(images), None)
    return detector


def patches(detector: PatchCore, images: Tensor) -> np.ndarray:
    """Means over 3 x 3 neighbourhoods, zeros beyond the border, of both strides."""
    found = []
    for one in detector.encode(Inputs(images)):
        padded = np.pad(one.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        found.append(torch.from_numpy(windows.mean(axis=(4, 5))))
    size = found[0].shape[-2:]
    coarse = torch.nn.functional.interpolate(found[1], size=size, mode="bilinear")
    return torch.cat([found[0], coarse], dim=1).flatten(2).transpose(1, 2).numpy()


def test_distances_and_score_are_those_of_scikit_learn(
    make_images: MakeImages, make_slices: MakeSlices
) -> None:
    detector = fitted(make_slices(make_images(12)), bank_size=60)
    others = make_images(3, seed=1)
    bank = detector.bank.numpy()
    known = NearestNeighbors().fit(bank)
    output = detector(Inputs(others))
    for index, asked in enumerate(patches(detector, others)):
        distance, nearest = (one[:, 0] for one in known.kneighbors(asked, n_neighbors=1))
        found = output.distance[index].flatten()
        np.testing.assert_allclose(found, distance, rtol=1e-3, atol=1e-4)
        far = distance.argmax()
        around = known.kneighbors(bank[nearest[far]][None], n_neighbors=9)[1][0]
        apart = np.linalg.norm(asked[far] - bank[around], axis=1)
        share = np.exp(distance[far]) / np.exp(apart).sum()
        expected = (1 - share) * distance[far]
        assert float(output.score[index]) == pytest.approx(expected, rel=1e-3)
    found = detector.evidence(output, Inputs(others)).values["distance"]
    assert torch.equal(found, output.score)


def test_the_memory_is_a_bounded_set_of_normal_patches(
    make_images: MakeImages, make_slices: MakeSlices
) -> None:
    images = make_images(12)
    detector = fitted(make_slices(images), bank_size=30)
    assert detector.config["size"] == len(detector.bank) == 30
    known = patches(detector, images).reshape(-1, detector.bank.shape[1])
    apart = NearestNeighbors(n_neighbors=1).fit(known).kneighbors(detector.bank.numpy())[0]
    assert apart.max() < 1e-3
    assert len(fitted(make_slices(images[:1]), bank_size=30).bank) == 16
    again = fitted(make_slices(images), bank_size=30)
    again.encoder.load_state_dict(detector.encoder.state_dict())
    again.prepare(NormalBatches(make_slices(images)), None)
    assert torch.equal(again.bank, detector.bank)


def test_the_coreset_takes_the_farthest_next() -> None:
    line = torch.tensor([0.0, 1.0, 2.0, 9.0, 10.0]).unsqueeze(1)
    chosen = coreset(line, 3, torch.Generator().manual_seed(0))
    assert chosen.tolist() == [0, 4, 2]
    assert len(coreset(line, 9, torch.Generator().manual_seed(0))) == 5


def test_mistakes_are_told() -> None:
    with pytest.raises(ArgumentError, match="bank_size: expected at least 2, got 1"):
        PatchCore(bank_size=1)

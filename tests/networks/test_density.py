"""How usual an image is as a whole."""

import numpy as np
import torch
from sklearn.covariance import LedoitWolf

from networks.density import NUISANCE_WEIGHT, GaussianDensity


def samples(count: int, size: int = 6, seed: int = 0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=torch.Generator().manual_seed(9))
    return torch.randn(count, size, generator=source) @ mixing + 5.0


def test_it_is_the_shrunk_mahalanobis_distance() -> None:
    features, others = samples(40), samples(10, seed=1)
    density = GaussianDensity(6)
    density.fit(features, torch.zeros(1, 6))
    expected = np.sqrt(LedoitWolf().fit(features.double().numpy()).mahalanobis(others.numpy()))
    torch.testing.assert_close(
        density(others).double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4
    )


def test_changes_that_do_not_matter_count_as_variance() -> None:
    features, change = samples(40), torch.eye(6)[:1] * 20.0
    blind, seeing = GaussianDensity(6), GaussianDensity(6)
    blind.fit(features, change)
    seeing.fit(features, torch.zeros(1, 6))
    moved = features.mean(dim=0, keepdim=True) + torch.stack([change[0], change[0].roll(1)])
    assert seeing(moved).min() > 5
    along, across = blind(moved).tolist()
    assert along < 1.1 / NUISANCE_WEIGHT**0.5 < 5 < across


def test_fewer_images_than_features_and_constant_features_are_no_trouble() -> None:
    few = samples(4, 30)
    few[:, 3] = 0.0
    for features in (few, torch.zeros(4, 30)):
        density = GaussianDensity(30)
        density.fit(features, torch.zeros(4, 30))
        assert torch.isfinite(density(samples(3, 30, seed=2))).all()
        assert float(density(features).max()) < 30


def test_it_travels_in_buffers() -> None:
    density, twin = GaussianDensity(6), GaussianDensity(6)
    density.fit(samples(40), samples(40, seed=3))
    twin.load_state_dict(density.state_dict())
    others = samples(5, seed=4)
    assert torch.equal(density(others), twin(others))
    assert not list(density.parameters())

"""The component of the flow's prior that labelled anomalies have."""

import torch
from torch.distributions import Independent, Normal

from networks.flow import standard_normal_log_prob
from networks.mixture import LabelledMixture


def test_its_densities_are_those_of_two_gaussians() -> None:
    mixture = LabelledMixture(6).double()
    latent = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    values = latent.permute(0, 2, 3, 1)
    ones = torch.ones(6, dtype=torch.float64)
    normal = Independent(Normal(0 * ones, ones), 1).log_prob(values)
    anomalous = Independent(Normal(mixture.mean.flatten(), ones), 1).log_prob(values)
    torch.testing.assert_close(mixture.log_odds(latent), anomalous - normal)
    far = 1000 * latent  # where densities in 32 bits are known to no better than 0.1
    odds, rounded = mixture.log_odds(far), mixture.float().log_odds(far.float())
    torch.testing.assert_close(rounded.double(), odds, atol=1e-3, rtol=1e-6)
    mixture.double()
    cover = torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    cover[0, 0, 0] = torch.tensor([0.4, 0.5, 0.6])
    cover[1] = torch.nan
    expected = torch.stack([normal[0], anomalous[1]])
    expected[0, 0, 2] = anomalous[0, 0, 2]
    found = standard_normal_log_prob(mixture.centred(latent, cover))
    torch.testing.assert_close(found, expected)


def test_the_seed_alone_decides_the_mean() -> None:
    first, second, other = (LabelledMixture(8, seed).mean for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)

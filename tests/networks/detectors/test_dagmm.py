"""DAGMM: its energy and mixture against scikit-learn's, its loss by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from networks import Inputs
from networks.detectors.dagmm import DAGMM, RIDGE, Mixture, energy_of, mixture_of
from networks.errors import ArgumentError

MakeImages = Callable[..., Tensor]


def samples(count: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    found = torch.randn(count, 3, generator=source, dtype=torch.float64)
    found[: count // 2, 0] += 4.0
    return found @ torch.tensor([[1.0, 0.3, 0.0], [0.0, 0.5, 0.2], [0.1, 0.0, 2.0]]).double()


def test_the_energy_is_that_of_scikit_learn() -> None:
    mixture = GaussianMixture(2, random_state=0).fit(samples(200).numpy())
    given = Mixture(
        torch.from_numpy(mixture.weights_),
        torch.from_numpy(mixture.means_),
        torch.from_numpy(mixture.precisions_cholesky_).mT,
    )
    others = samples(30, seed=1)
    expected = torch.from_numpy(-mixture.score_samples(others.numpy()))
    torch.testing.assert_close(energy_of(others, given), expected)
    shaped = energy_of(others.view(5, 6, 3), given)
    torch.testing.assert_close(shaped, expected.view(5, 6))


def test_the_mixture_is_a_step_of_expectation_maximisation() -> None:
    data = samples(300)
    fitted = GaussianMixture(2, random_state=0, reg_covar=RIDGE, tol=1e-9, max_iter=500)
    fitted.fit(data.numpy())
    mixture, variance = mixture_of(data, torch.from_numpy(fitted.predict_proba(data.numpy())))
    np.testing.assert_allclose(mixture.weight, fitted.weights_, rtol=1e-3)
    np.testing.assert_allclose(mixture.mean, fitted.means_, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        variance, np.diagonal(fitted.covariances_, axis1=1, axis2=2), rtol=1e-3
    )
    precision = mixture.whitening.mT @ mixture.whitening
    np.testing.assert_allclose(precision, fitted.precisions_, rtol=1e-2, atol=1e-2)


def test_the_loss_is_error_energy_and_penalty(make_images: MakeImages) -> None:
    detector, inputs = DAGMM(in_channels=2).eval(), Inputs(make_images(3, 2))
    output = detector(inputs)
    terms = detector.loss(output, inputs, "train")
    squares = (output.reconstruction - inputs.image).square()
    torch.testing.assert_close(terms["residual"], squares.sum() / (3 * 2 * 2))  # 2 x 2 patches
    sample = output.sample.flatten(0, 2)
    mixture, variance = mixture_of(sample, output.membership.flatten(0, 2))
    torch.testing.assert_close(terms["energy"], energy_of(sample, mixture).mean())
    expected = terms["residual"] + 0.1 * terms["energy"] + 0.005 * (1 / variance).sum()
    torch.testing.assert_close(terms["loss"], expected)
    assert mixture.weight.sum().item() == pytest.approx(1.0)


def test_a_sample_is_code_and_errors_of_its_patch(make_images: MakeImages) -> None:
    detector, inputs = DAGMM(code=3).eval(), Inputs(make_images(2, height=48))
    output = detector(inputs)
    assert output.sample.shape == (2, 3, 2, 5)
    patch, made = (x[1, 0, 16:32, 16:].flatten() for x in (inputs.image, output.reconstruction))
    distance = (patch - made).norm() / patch.norm()
    similarity = patch @ made / (patch.norm() * made.norm())
    torch.testing.assert_close(output.sample[1, 1, 1, 3:], torch.stack([distance, similarity]))


def test_mistakes_are_told() -> None:
    with pytest.raises(ArgumentError, match="code, components, pool"):
        DAGMM(components=0)

import math

import pytest
import torch
from torch import Tensor

from networks.aeflow import AEFlowOutput
from networks.loss import AEFlowLoss, bits_per_dimension, likelihoods


def output(dtype: torch.dtype = torch.float64) -> AEFlowOutput:
    shapes = ((2, 3, 4, 4), (2, 5, 2, 2))
    latents = [torch.randn(s).to(dtype) for s in shapes]
    log_dets = [torch.randn(s[0], *s[2:]).to(dtype) for s in shapes]
    return AEFlowOutput(torch.rand(2, 1, 16, 16).to(dtype), latents, log_dets, None, torch.zeros(0))


def negative_log_likelihood(out: AEFlowOutput) -> Tensor:
    """Sum over everything, in nats."""
    normal = torch.distributions.Normal(0.0, 1.0)
    return -sum(normal.log_prob(z).sum() for z in out.latents) - sum(d.sum() for d in out.log_dets)


def test_terms_are_bits_per_dimension_and_mean_squared_error():
    out, image = output(), torch.rand(2, 1, 16, 16, dtype=torch.float64)
    terms = AEFlowLoss(alpha=0.25).terms(out, image)
    dimensions = 2 * (3 * 16 + 5 * 4)
    torch.testing.assert_close(
        terms.flow, negative_log_likelihood(out) / (dimensions * math.log(2.0))
    )
    torch.testing.assert_close(terms.reconstruction, ((out.reconstruction - image) ** 2).mean())
    torch.testing.assert_close(terms.total, 0.25 * terms.flow + 0.75 * terms.reconstruction)
    assert terms.total.shape == terms.flow.shape == terms.reconstruction.shape == ()


def test_standard_normal_latents_cost_their_entropy():
    latents, log_dets = [torch.randn(64, 8, 16, 16)], [torch.zeros(64, 16, 16)]
    bits = bits_per_dimension(AEFlowOutput(torch.zeros(1), latents, log_dets, None, torch.zeros(0)))
    assert bits.item() == pytest.approx(0.5 * math.log2(2.0 * math.pi * math.e), abs=0.02)


@pytest.mark.parametrize(("alpha", "part"), [(0.0, "reconstruction"), (1.0, "flow")])
def test_either_part_alone(alpha, part):
    out, image = output(), torch.rand(2, 1, 16, 16, dtype=torch.float64)
    loss = AEFlowLoss(alpha)
    torch.testing.assert_close(loss(out, image), getattr(loss.terms(out, image), part))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha: expected a number in \[0, 1\]"):
        AEFlowLoss(alpha)


def test_target_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="target: expected shape"):
        AEFlowLoss()(output(), torch.rand(2, 1, 16, 1))


def test_half_precision_is_summed_in_32_bits():
    out = output(torch.bfloat16)
    terms = AEFlowLoss().terms(out, torch.rand(2, 1, 16, 16).bfloat16())
    assert {t.dtype for t in terms} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert AEFlowLoss()(output(torch.float32), torch.rand(2, 1, 16, 16)).dtype == torch.float32


def test_likelihoods_sum_to_the_negative_log_likelihood():
    out = output()
    _, maps = likelihoods(out)
    assert [m.shape for m in maps] == [(2, 4, 4), (2, 2, 2)]
    total = sum(m.sum() * z.shape[1] for m, z in zip(maps, out.latents, strict=True))
    torch.testing.assert_close(-total, negative_log_likelihood(out))


def test_the_prior_s_likelihood_lacks_the_log_determinant():
    out = output()
    for p, f, z, d in zip(*likelihoods(out), out.latents, out.log_dets, strict=True):
        torch.testing.assert_close(f, p + d / z.shape[1])

import math

import pytest
import torch

from networks.scales import SCALES, clamped_exp_log_scale, softplus_log_scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_extreme_values_give_finite_bounded_scales_and_gradients(scale, dtype):
    raw = torch.tensor(
        [-1e4, -100.0, -40.0, -36.5, -30.0, 0.0, 30.0, 100.0, 1e4], dtype=dtype, requires_grad=True
    )
    log_scale = scale(raw, 2.0)
    assert log_scale.isfinite().all()
    assert log_scale.abs().max() <= 2.0
    assert (log_scale.diff() >= 0).all()
    (gradient,) = torch.autograd.grad(log_scale.sum(), raw)
    assert gradient.isfinite().all()
    assert (gradient >= 0).all()


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_scale_is_one_at_zero(scale):
    assert scale(torch.zeros(1, dtype=torch.float64), 2.0).item() == pytest.approx(0.0, abs=1e-15)


def test_softplus_scale_is_the_papers_where_the_bound_is_far():
    raw = torch.linspace(-80.0, 50.0, 300, dtype=torch.float64)
    exact = [math.log(math.log1p(math.exp(r + math.log(math.e - 1.0)))) for r in raw.tolist()]
    torch.testing.assert_close(
        softplus_log_scale(raw, 1e6), torch.tensor(exact, dtype=torch.float64)
    )


def test_softplus_gradient_matches_finite_differences():
    raw = torch.linspace(-45.0, 20.0, 40, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: softplus_log_scale(r, 20.0), (raw,))


def test_clamped_exp_is_freias():
    raw = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(clamped_exp_log_scale(raw, 1.9), 1.9 * raw.tanh())

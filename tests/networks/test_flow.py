import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from networks.flow import (
    ActNorm,
    AffineCoupling,
    ChannelShuffle,
    FlowStep,
    NormalizingFlow,
    standard_normal_log_prob,
)
from networks.scales import SCALES, clamped_exp_log_scale, softplus_log_scale
from networks.subnets import SUBNETS

SPATIAL = {1: (5,), 2: (2, 3), 3: (2, 1, 2)}

Part = Callable[[int, int], nn.Module]


def subnet_of(name: str, spatial_dims: int) -> Callable[[int, int], nn.Module]:
    return partial(SUBNETS[name], hidden=5, spatial_dims=spatial_dims)


def coupling(channels: int, spatial_dims: int, subnet: str, scale: str) -> nn.Module:
    return AffineCoupling(channels, subnet_of(subnet, spatial_dims), SCALES[scale], clamp=1.5)


def step(channels: int, spatial_dims: int) -> nn.Module:
    return FlowStep(channels, subnet_of("conv", spatial_dims), spatial_dims=spatial_dims)


def flow(channels: int, spatial_dims: int, subnet: str, scale: str) -> nn.Module:
    return NormalizingFlow(channels, 3, subnet, hidden=5, scale=scale, spatial_dims=spatial_dims)


PARTS: dict[str, Part] = {
    "actnorm": ActNorm,
    "permutation": lambda channels, spatial_dims: ChannelShuffle(),
    "step": step,
    **{
        f"{make.__name__}-{subnet}-{scale}": partial(make, subnet=subnet, scale=scale)
        for make in (coupling, flow)
        for subnet in SUBNETS
        for scale in SCALES
    },
}


def log_abs_det_of_jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Differentiate one sample `(1, C, *spatial)`."""
    jacobian = torch.autograd.functional.jacobian(function, x, vectorize=True)
    return torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel())).logabsdet


@pytest.mark.parametrize(("spatial_dims", "channels"), [(1, 2), (2, 5), (3, 4)])
@pytest.mark.parametrize("name", PARTS)
def test_inverse_and_log_det_are_exact(name, spatial_dims, channels, randomise):
    part = randomise(PARTS[name](channels, spatial_dims).double(), channels)
    x = torch.randn(2, channels, *SPATIAL[spatial_dims], dtype=torch.float64)
    with torch.no_grad():
        y, log_det = part(x)
        back, inverse_log_det = part.inverse(y)

    assert y.shape == x.shape
    assert log_det.shape == inverse_log_det.shape == (2, *SPATIAL[spatial_dims])
    torch.testing.assert_close(back, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)
    if name != "permutation":
        assert not torch.allclose(y, x)
        assert (log_det.abs() > 1e-3).any()
    torch.testing.assert_close(
        log_abs_det_of_jacobian(lambda v: part(v)[0], x[:1]), log_det[0].sum()
    )
    torch.testing.assert_close(
        log_abs_det_of_jacobian(lambda v: part.inverse(v)[0], y[1:]), inverse_log_det[1].sum()
    )


@settings(max_examples=15, deadline=None)
@given(
    channels=st.integers(2, 9),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    steps=st.integers(1, 5),
    seed=st.integers(0, 2**20),
    spread=st.floats(0.01, 30.0),
)
def test_flow_inverts_at_any_size(channels, size, steps, seed, spread):
    torch.manual_seed(seed)
    flow = NormalizingFlow(channels, steps, hidden=4).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
        x = spread * torch.randn(2, channels, *size, dtype=torch.float64)
        y, log_det = flow(x)
        back, inverse_log_det = flow.inverse(y)
    torch.testing.assert_close(back, x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-7, atol=1e-7)


def test_log_det_of_actnorm_is_the_sum_of_its_log_scales(randomise):
    norm = randomise(ActNorm(3).double(), 1)
    _, log_det = norm(torch.randn(2, 3, 4, 5, dtype=torch.float64))
    torch.testing.assert_close(log_det, norm.log_scale.sum().expand(2, 4, 5))


def test_actnorm_initialises_to_zero_mean_and_unit_variance():
    x = 3.0 + torch.tensor([0.2, 1.0, 5.0]).view(1, 3, 1, 1) * torch.randn(8, 3, 6, 6)
    norm = ActNorm(3)
    norm.initialize(x)
    y, _ = norm(x)
    torch.testing.assert_close(y.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.std(dim=(0, 2, 3), correction=0), torch.ones(3), rtol=1e-4, atol=0)


def test_initialising_normalises_the_input_of_every_coupling(randomise):
    flow = randomise(NormalizingFlow(4, steps=4, hidden=4), 5)
    x = 2.0 + 3.0 * torch.randn(16, 4, 5, 5)
    flow.initialize(x)
    with torch.no_grad():
        for step in flow.steps:
            normed, _ = step.actnorm(x)
            torch.testing.assert_close(
                normed.var(dim=(0, 2, 3), correction=0), torch.ones(4), rtol=1e-3, atol=0
            )
            x, _ = step(x)


@pytest.mark.parametrize("silent", [slice(0, 2), slice(None)])
def test_silent_channels_are_not_amplified(silent):
    x = torch.randn(8, 6, 4, 4)
    x[:, silent] = 0.5
    flow = NormalizingFlow(6, steps=8)
    flow.initialize(x)
    _, log_det = flow(x)
    assert log_det.abs().max() < 20.0
    x[:, silent] += 0.01
    assert flow(x)[0].abs().max() < 10.0


def test_forward_never_initialises():
    flow = NormalizingFlow(4, steps=2).train()
    before = {k: v.clone() for k, v in flow.state_dict().items()}
    flow(5.0 + torch.randn(4, 4, 3, 3))
    assert all(torch.equal(before[k], v) for k, v in flow.state_dict().items())


def test_untrained_flow_permutes_its_input():
    x = torch.randn(2, 6, 3, 3)
    y, log_det = NormalizingFlow(6, steps=3)(x)
    torch.testing.assert_close(y.sort(dim=1).values, x.sort(dim=1).values)
    torch.testing.assert_close(log_det, torch.zeros(2, 3, 3), rtol=0, atol=1e-5)


def test_steps_split_the_channels_by_the_bits_of_their_numbers():
    numbers, shuffle = torch.arange(32.0).view(1, 32, 1), ChannelShuffle()
    for bit in range(5):
        numbers, _ = shuffle(numbers)
        first = {int(number) >> bit & 1 for number in numbers[0, :16, 0]}
        assert len(first) == 1


def test_gradients_of_actnorm_are_those_of_plain_operations(randomise):
    norm, x = randomise(ActNorm(3).double(), 2), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    inputs = (x.requires_grad_(), norm.log_scale, norm.bias)
    found = torch.autograd.grad(norm(x)[0].square().sum(), inputs)
    plain = x * norm.log_scale.exp() + norm.bias
    torch.testing.assert_close(found, torch.autograd.grad(plain.square().sum(), inputs))


def test_batch_equals_one_by_one(randomise):
    flow = randomise(NormalizingFlow(5, steps=3, hidden=4).double(), 6).train()
    x = torch.randn(4, 5, 3, 3, dtype=torch.float64)
    y, log_det = flow(x)
    for b in range(4):
        alone, alone_log_det = flow(x[b : b + 1])
        torch.testing.assert_close(alone[0], y[b], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone_log_det[0], log_det[b], rtol=1e-12, atol=1e-12)


def test_autocast_keeps_log_det_in_32_bits(randomise):
    flow = randomise(NormalizingFlow(4, steps=2, hidden=4), 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latent, log_det = flow(torch.randn(1, 4, 3, 3).bfloat16())
    assert (latent.dtype, log_det.dtype) == (torch.bfloat16, torch.float32)


def test_scales_are_computed_in_32_bits_under_autocast(randomise):
    coupling = randomise(AffineCoupling(4, subnet_of("conv", 2)), 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, log_det = coupling(torch.randn(1, 4, 3, 3))
    assert log_det.dtype == torch.float32


def test_scale_and_subnet_may_be_callables():
    flow = NormalizingFlow(
        4,
        steps=1,
        subnet=lambda in_channels, out_channels: nn.Conv2d(in_channels, out_channels, 1),
        scale=lambda raw, clamp: torch.full_like(raw, clamp),
        clamp=0.25,
    )
    _, log_det = flow(torch.randn(1, 4, 2, 2))
    torch.testing.assert_close(log_det, torch.full((1, 2, 2), 0.5))


def test_hidden_width_defaults_to_an_affordable_one():
    assert NormalizingFlow(300, steps=1).steps[0].coupling.subnet[0].out_channels == 128
    assert NormalizingFlow(300, steps=1, hidden=7).steps[0].coupling.subnet[0].out_channels == 7
    assert NormalizingFlow(6, steps=1).steps[0].coupling.subnet[0].out_channels == 6


def test_standard_normal_log_prob_matches_torch():
    z = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    torch.testing.assert_close(standard_normal_log_prob(z), expected)
    assert standard_normal_log_prob(z.half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subnet": "cnov"}, "subnet: expected one of 'conv', 'resnet', got 'cnov'.*'conv'"),
        ({"scale": "softpuls"}, "scale: .*Did you mean 'softplus'"),
        ({"steps": 0}, "steps: expected at least 1"),
        ({"clamp": 0.0}, "clamp: expected a positive number"),
        ({"channels": 1}, "channels: expected at least 2"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        NormalizingFlow(**{"channels": 4, **arguments})


def freia_block(
    channels: int, size: tuple[int, int], subnet: nn.Module | None, clamp: float
) -> nn.Module:
    """Build FrEIA's block as a coupling alone, or with a zero subnet as a global affine map."""
    freia = pytest.importorskip("FrEIA.modules")

    class Subnet(nn.Module):
        """FrEIA multiplies what its subnet returns by 0.1, in place."""

        def __init__(self, channels_in: int, channels_out: int) -> None:
            super().__init__()
            self.subnet, self.channels_out = subnet, channels_out

        def forward(self, x: Tensor) -> Tensor:
            if self.subnet is None:
                return x.new_zeros(x.shape[0], self.channels_out, *x.shape[2:])
            return 10.0 * self.subnet(x)

    block = freia.AllInOneBlock(
        [(channels, *size)],
        subnet_constructor=Subnet,
        affine_clamping=clamp,
        global_affine_init=1.0,
        global_affine_type="EXP",
    ).double()
    set_freia_permutation(block, torch.arange(channels))
    return block


def set_freia_permutation(block: nn.Module, permutation: Tensor) -> None:
    matrix = torch.zeros(block.w_perm.shape, dtype=torch.float64)
    matrix[torch.arange(len(permutation)), permutation] = 1.0
    block.w_perm.data = matrix
    block.w_perm_inv.data = matrix.transpose(0, 1).contiguous()


def freia_chain(flow: NormalizingFlow, channels: int, size: tuple[int, int]) -> list[nn.Module]:
    """Express every step of our flow by two blocks of FrEIA with the same weights."""
    blocks = []
    for step in flow.steps:
        norm = freia_block(channels, size, None, 1.0)
        norm.global_scale.data = step.actnorm.log_scale.data.clone()
        norm.global_offset.data = step.actnorm.bias.data.clone()
        coupling = freia_block(channels, size, step.coupling.subnet, step.coupling.clamp)
        set_freia_permutation(
            coupling, torch.cat((torch.arange(1, channels, 2), torch.arange(0, channels, 2)))
        )
        blocks += [norm, coupling]
    return blocks


@pytest.mark.parametrize("subnet", SUBNETS)
@pytest.mark.parametrize("channels", [6, 7])
@torch.no_grad()
def test_flow_equals_freia(channels, subnet, randomise):
    size = (3, 4)
    flow = randomise(
        NormalizingFlow(channels, 4, subnet, hidden=5, scale="clamped_exp", clamp=1.7).double(), 8
    )
    blocks = freia_chain(flow, channels, size)
    x = torch.randn(3, channels, *size, dtype=torch.float64)

    theirs, their_log_det = x, torch.zeros(3, dtype=torch.float64)
    for block in blocks:
        (theirs,), log_det = block([theirs])
        their_log_det = their_log_det + log_det
    ours, our_log_det = flow(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(our_log_det.sum(dim=(1, 2)), their_log_det, rtol=1e-9, atol=0)

    z = torch.randn_like(x)
    theirs, their_log_det = z, torch.zeros(3, dtype=torch.float64)
    for block in reversed(blocks):
        (theirs,), log_det = block([theirs], rev=True)
        their_log_det = their_log_det + log_det
    ours, our_log_det = flow.inverse(z)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(our_log_det.sum(dim=(1, 2)), their_log_det, rtol=1e-9, atol=0)


def test_scale_functions_are_those_named():
    assert SCALES == {"softplus": softplus_log_scale, "clamped_exp": clamped_exp_log_scale}
    x = torch.tensor([0.0, 1.0])
    one, raw = AffineCoupling(2, lambda i, o: nn.Conv1d(i, o, 1)), torch.tensor([[[0.3, -0.2]]])
    with torch.no_grad():
        one.subnet.weight.zero_()
        one.subnet.bias.copy_(torch.tensor([0.4, 0.0]))
        y, _ = one(torch.cat((raw, x.view(1, 1, 2)), dim=1))
    scale = math.log1p(math.exp(0.4 + math.log(math.e - 1.0)))
    assert y[0, 1, 1].item() == pytest.approx(math.exp(2.0 * math.tanh(math.log(scale) / 2.0)))

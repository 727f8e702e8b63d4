"""The normalizing flow of AE-FLOW (Zhao, Ding, Zhang, ICLR 2023, section 3.2).

A flow is K steps of ActNorm, affine coupling and a fixed permutation of channels. Every part has
`forward(x) -> (y, log_det)` and `inverse(y) -> (x, log_det)`. A log-determinant is kept per
position: log_det of shape `(B, *spatial)`, whose sum over positions is log |det dy/dx| (for
`inverse`, log |det dx/dy|, that is, the negative).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Reversible
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .choices import choose
from .errors import ArgumentError
from .scales import SCALES, LogScale, softplus_log_scale
from .subnets import SUBNETS, SubnetFactory

DEFAULT_MAX_HIDDEN = 128
"""Largest hidden width of a sub-network whose width is not given."""

MIN_RELATIVE_STD = 0.01
"""ActNorm scales a channel that varies less than this fraction of the mean sd like the others.

A channel that is silent in the initialising batch would otherwise be amplified at every step.
"""


class _Affine(torch.autograd.Function):
    """x * scale + bias per channel, whose gradients are products of matrices.

    A GPU sums over positions slowly, the more so within the kernel that makes what is summed.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return (x * scale + bias).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        sums = (_sum_of_positions(one).view_as(scale) for one in (gradient * x, gradient))
        return (gradient * scale).to(x.dtype), *(one.to(scale.dtype) for one in sums)


def _sum_of_positions(x: Tensor) -> Tensor:
    rows = x.movedim(1, -1).reshape(-1, x.shape[1])
    return (rows.new_ones(8, len(rows)) @ rows)[0]


class ActNorm(nn.Module):
    """An affine map per channel, y = x * exp(log_scale) + bias (Kingma and Dhariwal, 2018).

    Args:
        channels: number of channels C.
        spatial_dims: number of spatial dimensions, 1, 2 or 3.
    """

    def __init__(self, channels: int, spatial_dims: int = 2) -> None:
        """Start as the identity; `initialize` fits it to data."""
        super().__init__()
        shape = (1, channels, *([1] * spatial_dims))
        self.log_scale = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set scale and bias so that `forward(x)` has mean 0 and variance 1 in every channel.

        A silent channel gets mean 0 and keeps its small variance; see `MIN_RELATIVE_STD`.

        Args:
            x: a batch `(B, C, *spatial)` of typical values.
        """
        dims = [d for d in range(x.dim()) if d != 1]
        x = x.to(self.bias.dtype)
        mean = x.mean(dim=dims, keepdim=True)
        std = x.std(dim=dims, keepdim=True, correction=0)
        typical = std.mean() if std.any() else std.new_ones(())
        std = torch.where(std > MIN_RELATIVE_STD * typical, std, typical)
        self.log_scale.copy_(-std.log())
        self.bias.copy_(-mean / std)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x `(B, C, *spatial)` to y of that shape, with log_det `(B, *spatial)`."""
        run = _Affine.apply if torch.is_grad_enabled() else _Affine.forward
        y: Tensor = run(x, self.log_scale.exp(), self.bias)  # exports know no Function
        return y, self._log_det(x)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map y back to x, with the log-determinant of this inverse."""
        return (y - self.bias) * torch.exp(-self.log_scale), -self._log_det(y)

    def _log_det(self, x: Tensor) -> Tensor:
        return self.log_scale.sum().expand(x.shape[0], *x.shape[2:])


class AffineCoupling(nn.Module):
    """Scales and shifts one part of the channels by what the other part says.

    With x = (x1, x2): y1 = x1 and y2 = x2 * s(x1) + t(x1), where the sub-network returns the raw
    scale and t together. x1 has C - C // 2 channels and x2 has C // 2, as in FrEIA.

    Args:
        channels: number of channels C, at least 2.
        subnet: builds the sub-network from (input channels, output channels).
        scale: maps (raw output, clamp) to the log scale.
        clamp: bound of the log scale, positive.

    Raises:
        ArgumentError: if there are fewer than 2 channels or the clamp is not positive.
    """

    def __init__(
        self,
        channels: int,
        subnet: SubnetFactory,
        scale: LogScale = softplus_log_scale,
        clamp: float = 2.0,
    ) -> None:
        """Build the coupling; see the class for the arguments."""
        super().__init__()
        if channels < 2:
            raise ArgumentError(
                f"channels: expected at least 2, got {channels}; "
                "a coupling needs a channel to change and one to tell how."
            )
        if not clamp > 0:
            raise ArgumentError(f"clamp: expected a positive number, got {clamp}; 2.0 is usual.")
        self.split = [channels - channels // 2, channels // 2]
        self.scale = scale
        self.clamp = clamp
        self.subnet = subnet(self.split[0], 2 * self.split[1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x `(B, C, *spatial)` to y of that shape, with log_det `(B, *spatial)`."""
        passive, active = torch.split(x, self.split, dim=1)
        log_scale, shift = self._parameters_of(passive)
        changed = (active * log_scale.exp() + shift).to(x.dtype)
        y = torch.cat((passive, changed), dim=1)
        return y, log_scale.sum(dim=1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map y back to x, with the log-determinant of this inverse."""
        passive, active = torch.split(y, self.split, dim=1)
        log_scale, shift = self._parameters_of(passive)
        x = torch.cat((passive, (active - shift) * torch.exp(-log_scale)), dim=1)
        return x, -log_scale.sum(dim=1)

    def _parameters_of(self, passive: Tensor) -> tuple[Tensor, Tensor]:
        # Autocast lets the sub-network answer in 16 bits; log-determinants need more.
        wide = torch.promote_types(passive.dtype, torch.float32)
        raw, shift = self.subnet(_dense(passive)).to(wide).chunk(2, dim=1)
        return self.scale(raw, self.clamp), shift


def _dense(x: Tensor) -> Tensor:
    """Some channels of a tensor in memory of their own, which a convolution would copy slowly."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


class _Shuffle(torch.autograd.Function):
    """Every other channel, the odd ones first, along channels-last memory."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        return torch.cat((x[..., 1::2], x[..., ::2]), dim=-1).movedim(-1, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _unshuffled(gradient)


def _unshuffled(y: Tensor) -> Tensor:
    odd, even = y.movedim(1, -1).tensor_split((y.shape[1] // 2,), dim=-1)
    uneven = y.shape[1] % 2
    odd = F.pad(odd, (0, 1)) if uneven else odd
    pairs = torch.stack((even, odd), dim=-1).reshape(*even.shape[:-1], -1)
    return (pairs[..., :-1] if uneven else pairs).movedim(-1, 1)


class ChannelShuffle(nn.Module):
    """A fixed permutation of the channels, with log_det 0: the odd ones before the even ones.

    Step k of a flow so splits its channels by bit k of their number: as evenly as at random, and
    faster than by any index.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x `(B, C, *spatial)` to y of that shape, with log_det `(B, *spatial)` of zeros."""
        run = _Shuffle.apply if torch.is_grad_enabled() else _Shuffle.forward
        y: Tensor = run(x)  # exports know no Function
        return y, _no_log_det(x)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map y back to x, with log_det zero."""
        return _unshuffled(y), _no_log_det(y)


def _no_log_det(x: Tensor) -> Tensor:
    return torch.zeros_like(x[:, 0], dtype=torch.promote_types(x.dtype, torch.float32))


class FlowStep(nn.Module):
    """One step of the flow: ActNorm, affine coupling, permutation.

    Args:
        channels: number of channels C, at least 2.
        subnet: builds the coupling's sub-network from (input channels, output channels).
        scale: maps (raw output, clamp) to the log scale.
        spatial_dims: number of spatial dimensions, 1, 2 or 3.
        clamp: bound of the coupling's log scale.
    """

    def __init__(
        self,
        channels: int,
        subnet: SubnetFactory,
        scale: LogScale = softplus_log_scale,
        spatial_dims: int = 2,
        clamp: float = 2.0,
    ) -> None:
        """Build the step; see the class for the arguments."""
        super().__init__()
        self.actnorm = ActNorm(channels, spatial_dims)
        self.coupling = AffineCoupling(channels, subnet, scale, clamp)
        self.permutation = ChannelShuffle()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x `(B, C, *spatial)` to y of that shape, with log_det `(B, *spatial)`."""
        x, normed = self.actnorm(x)
        x, coupled = self.coupling(x)
        x, permuted = self.permutation(x)
        return x, normed + coupled + permuted

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map y back to x, with the log-determinant of this inverse."""
        y, permuted = self.permutation.inverse(y)
        y, coupled = self.coupling.inverse(y)
        y, normed = self.actnorm.inverse(y)
        return y, permuted + coupled + normed


class NormalizingFlow(nn.Module):
    """K flow steps from features z to a latent z' that should be standard normal.

    Args:
        channels: number of channels C, at least 2.
        steps: number of steps K; the paper uses 8.
        subnet: `"conv"`, `"resnet"` or a callable (input channels, output channels) -> module.
        hidden: width of a named sub-network; min(C, 128) if not given, C in the paper.
        scale: `"softplus"` (the paper's), `"clamped_exp"` or a callable (raw, clamp) -> log scale.
        spatial_dims: number of spatial dimensions, 1, 2 or 3.
        clamp: bound of the couplings' log scales.

    Raises:
        ArgumentError: if a name is unknown or there is no step.

    Example:
        >>> flow = NormalizingFlow(channels=4, steps=2)
        >>> latent, log_det = flow(torch.randn(2, 4, 5, 5))
        >>> latent.shape, log_det.shape
        (torch.Size([2, 4, 5, 5]), torch.Size([2, 5, 5]))
    """

    def __init__(
        self,
        channels: int,
        steps: int = 8,
        subnet: str | SubnetFactory = "conv",
        hidden: int | None = None,
        scale: str | LogScale = "softplus",
        spatial_dims: int = 2,
        clamp: float = 2.0,
    ) -> None:
        """Build the flow near a permutation of its input; see the class for the arguments."""
        super().__init__()
        if steps < 1:
            raise ArgumentError(f"steps: expected at least 1, got {steps}; the paper uses 8.")
        if isinstance(subnet, str):
            width = min(channels, DEFAULT_MAX_HIDDEN) if hidden is None else hidden
            build = choose("subnet", subnet, SUBNETS)
            subnet = partial(build, hidden=width, spatial_dims=spatial_dims)
        if isinstance(scale, str):
            scale = choose("scale", scale, SCALES)
        self.channels = channels
        self.steps = nn.ModuleList(
            FlowStep(channels, subnet, scale, spatial_dims, clamp) for _ in range(steps)
        )

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Initialise the ActNorms one after the other by running data through the flow.

        Args:
            x: a batch `(B, C, *spatial)` of typical features.
        """
        for step in cast(Iterable[FlowStep], self.steps):
            step.actnorm.initialize(x)
            x, _ = step(x)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map features `(B, C, *spatial)` to the latent, with log_det `(B, *spatial)`."""
        log_dets = []
        for step in self.steps:
            x, log_det = step(x)
            log_dets.append(log_det)
        return x, torch.stack(log_dets).sum(dim=0)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map the latent back to features, with the log-determinant of this inverse."""
        log_dets = []
        for step in reversed(cast(Reversible[FlowStep], self.steps)):
            y, log_det = step.inverse(y)
            log_dets.append(log_det)
        return y, torch.stack(log_dets).sum(dim=0)


def standard_normal_log_prob(latent: Tensor) -> Tensor:
    """Return the log density of the standard normal prior, summed over channels.

    Args:
        latent: of shape `(B, C, *spatial)`.

    Returns:
        Log densities in nats, `(B, *spatial)`, in at least 32 bits.

    Example:
        >>> round(standard_normal_log_prob(torch.zeros(1, 2, 1)).exp().item(), 3)  # 1 / (2 pi)
        0.159
    """
    latent = latent.to(torch.promote_types(latent.dtype, torch.float32))
    return -0.5 * (latent.square() + math.log(2.0 * math.pi)).sum(dim=1)

"""The encoder f of AE-FLOW: a residual network read out at chosen strides.

AE-FLOW (Zhao, Ding, Zhang, ICLR 2023, section 3.1) takes the features of a frozen Wide
ResNet-50-2 at stride 16. The networks here are MONAI's, with torchvision's parameter names, so
that a torchvision state dict loads without torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from monai.networks.layers.factories import Conv, Norm
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
from torch import Tensor, nn

from .choices import choose
from .errors import ArgumentError
from .folded import FoldedStages
from .spatial import check_spatial_dims

ENCODER_STRIDES = (4, 8, 16, 32)
"""Strides at which the four stages of a residual network leave their features."""

STAGE_PLANES = (64, 128, 256, 512)
"""Inner width of the four stages, before a block's expansion."""


class WideBottleneck(ResNetBottleneck):
    """A bottleneck of twice the inner width and the usual outer width.

    This is the block of Wide ResNet-50-2 (Zagoruyko and Komodakis, 2016) as torchvision builds
    it. MONAI's `widen_factor` would widen the stem and the outputs of the stages as well.
    """

    def __init__(
        self,
        in_planes: int,
        planes: int,
        spatial_dims: int = 2,
        stride: int = 1,
        downsample: nn.Module | partial[Tensor] | None = None,
        act: str | tuple[str, Any] = ("relu", {"inplace": True}),
        norm: str | tuple[str, Any] = "batch",
    ) -> None:
        """Build the block; the arguments are those of MONAI's `ResNetBottleneck`."""
        super().__init__(in_planes, planes, spatial_dims, stride, downsample, act, norm)
        width, conv = 2 * planes, Conv[Conv.CONV, spatial_dims]
        self.conv1 = conv(in_planes, width, kernel_size=1, bias=False)
        self.bn1 = Norm[Norm.BATCH, spatial_dims](width)
        self.conv2 = conv(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = Norm[Norm.BATCH, spatial_dims](width)
        self.conv3 = conv(width, planes * self.expansion, kernel_size=1, bias=False)


class EncoderSpec(NamedTuple):
    """The block and the number of blocks in each of the four stages."""

    block: type[ResNetBlock] | type[ResNetBottleneck]
    layers: tuple[int, int, int, int]


ENCODERS: Mapping[str, EncoderSpec] = MappingProxyType(
    {
        "resnet18": EncoderSpec(ResNetBlock, (2, 2, 2, 2)),
        "resnet34": EncoderSpec(ResNetBlock, (3, 4, 6, 3)),
        "resnet50": EncoderSpec(ResNetBottleneck, (3, 4, 6, 3)),
        "wide_resnet50_2": EncoderSpec(WideBottleneck, (3, 4, 6, 3)),
    }
)
"""The encoders to choose from."""


class ResNetStages(ResNet):
    """MONAI's residual network, built only as deep as it is read, returning its stages."""

    def __init__(
        self, spec: EncoderSpec, in_channels: int, depth: int, spatial_dims: int = 2
    ) -> None:
        """Build the stem and the first `depth` (1 to 4) stages."""
        # The base class calls `_make_layer` while it is being constructed.
        self.depth = depth
        super().__init__(
            block=spec.block,
            layers=list(spec.layers),
            block_inplanes=list(STAGE_PLANES),
            spatial_dims=spatial_dims,
            n_input_channels=in_channels,
            conv1_t_size=7,
            conv1_t_stride=2,
            shortcut_type="B",
            bias_downsample=False,
            feed_forward=False,
        )
        self.folded: dict[torch.dtype, FoldedStages] = {}
        self.register_load_state_dict_post_hook(_forget_folded)  # type: ignore[no-untyped-call]

    def _make_layer(
        self,
        block: type[ResNetBlock | ResNetBottleneck],
        planes: int,
        *args: Any,
        **kwargs: Any,
    ) -> nn.Sequential:
        if STAGE_PLANES.index(planes) >= self.depth:
            return nn.Sequential()
        return super()._make_layer(block, planes, *args, **kwargs)

    def stages(self, image: Tensor) -> list[Tensor]:
        """Return the features of every built stage, finest first.

        Args:
            image: of shape `(B, C, *s)`.

        Returns:
            Tensors of shape `(B, channels, *s / stride)` for strides 4, 8, ...
        """
        x = self.maxpool(self.act(self.bn1(self.conv1(image))))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4)[: self.depth]:
            x = stage(x)
            features.append(x)
        return features

    def frozen_stages(self, image: Tensor) -> list[Tensor]:
        """The same of a frozen 2-D network, faster and in the precision of autocast."""
        kind, dtype = image.device.type, self.conv1.weight.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        if dtype not in self.folded:
            self.folded[dtype] = FoldedStages(self, dtype)
        with torch.autocast(kind, enabled=False):
            features: list[Tensor] = self.folded[dtype](image)
        return features

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.folded.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class Encoder(nn.Module):
    """A residual network read out at chosen strides, frozen by default.

    Frozen means that no parameter takes a gradient, that no gradient graph is recorded, and that
    BatchNorm keeps its statistics even after `train()`. Its weights then change by
    `load_state_dict` alone, for on images it runs as a `FoldedStages`.

    Args:
        name: one of `ENCODERS`.
        in_channels: channels C of the image.
        strides: which of the strides 4, 8, 16, 32 to return, ascending. Stages beyond the largest
            are not built.
        frozen: whether to freeze the encoder.
        spatial_dims: 1 for signals, 2 for images, 3 for volumes.

    Attributes:
        strides: the strides returned.
        channels: number of channels at each of `strides`.
        frozen: whether the encoder is frozen; change it by `freeze` and `unfreeze`.

    Raises:
        ArgumentError: if the name or the strides are unknown.

    Example:
        >>> encoder = Encoder("resnet18", in_channels=1, strides=(4, 8))
        >>> [tuple(f.shape) for f in encoder(torch.zeros(2, 1, 32, 48))]
        [(2, 64, 8, 12), (2, 128, 4, 6)]
    """

    def __init__(
        self,
        name: str = "resnet18",
        in_channels: int = 1,
        strides: Sequence[int] = (8, 16),
        frozen: bool = True,
        spatial_dims: int = 2,
    ) -> None:
        """Build the encoder with random weights; see the class for the arguments."""
        super().__init__()
        spec = choose("encoder", name, ENCODERS)
        if in_channels < 1:
            raise ArgumentError(
                f"in_channels: expected at least 1, got {in_channels}; give the image's channels."
            )
        self.name = name
        self.in_channels = in_channels
        self.spatial_dims = check_spatial_dims(spatial_dims)
        self.strides = check_strides("strides", strides)
        stage_of = {stride: stage for stage, stride in enumerate(ENCODER_STRIDES)}
        self._stages = tuple(stage_of[stride] for stride in self.strides)
        self.channels = tuple(STAGE_PLANES[s] * spec.block.expansion for s in self._stages)
        self.backbone = ResNetStages(spec, in_channels, self._stages[-1] + 1, self.spatial_dims)
        self.frozen = False
        if frozen:
            self.freeze()

    def freeze(self) -> None:
        """Stop all change: of parameters by gradients and of BatchNorm statistics by batches."""
        self.frozen = True
        self.backbone.folded.clear()
        self.requires_grad_(False)
        self.eval()

    def unfreeze(self) -> None:
        """Let the encoder learn; call `train()` to put BatchNorm into training mode."""
        self.frozen = False
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> Encoder:
        """Set training mode, which a frozen encoder never enters."""
        return super().train(mode and not self.frozen)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features at `strides`.

        Args:
            image: of shape `(B, C, *s)`, each side divisible by the largest stride.

        Returns:
            One tensor `(B, channels[i], *s / strides[i])` per stride, of values in [0, inf).
        """
        traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # exports fold themselves
        if self.frozen:
            plain = traced or self.spatial_dims != 2
            with torch.no_grad():
                features = (self.backbone.stages if plain else self.backbone.frozen_stages)(image)
        else:
            features = self.backbone.stages(image)
        return [features[stage] for stage in self._stages]

    def load_torchvision_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the state dict of the torchvision network of the same name.

        The classifier and the stages that are not built are ignored. The first convolution is
        adapted to `in_channels` so that an image of equal channels gives the same response as the
        same image repeated over red, green and blue.

        Args:
            state_dict: torchvision's names (`conv1.weight`, `layer1.0.bn1.running_mean`, ...).

        Raises:
            ArgumentError: if tensors are missing, unknown or of another shape, which it names, or
                the encoder is not of images.
        """
        if self.spatial_dims != 2:
            raise ArgumentError(
                f"state_dict: expected none for spatial_dims {self.spatial_dims}, got "
                "torchvision's weights, which are of images; leave them out."
            )
        ignored = ("fc.", *(f"layer{n}." for n in range(self.backbone.depth + 1, 5)))
        given = {key: value for key, value in state_dict.items() if not key.startswith(ignored)}
        if "conv1.weight" in given:
            given["conv1.weight"] = adapt_first_convolution(given["conv1.weight"], self.in_channels)
        problems = _describe_mismatches(self.backbone.state_dict(), given)
        if problems:
            raise ArgumentError(
                f"state_dict: expected torchvision's {self.name}, got other tensors ("
                + "; ".join(problems)
                + "); choose the encoder that the weights belong to."
            )
        # Not strict: files written before PyTorch 0.4.1 have no `num_batches_tracked`.
        self.backbone.load_state_dict(given, strict=False)


def _forget_folded(module: Any, _: Any) -> None:
    module.folded.clear()


def adapt_first_convolution(weight: Tensor, in_channels: int) -> Tensor:
    """Turn the weights of a first convolution on red, green, blue to `in_channels` channels.

    Args:
        weight: of shape `(out, 3, k, k)`.
        in_channels: number of channels wanted, C.

    Returns:
        Weights `(out, C, k, k)` whose sum over the channels is unchanged: those given where they
        have C channels already, else the sum over channels spread evenly.
    """
    if weight.shape[1] == in_channels:
        return weight
    spread = weight.sum(dim=1, keepdim=True) / in_channels
    return spread.repeat(1, in_channels, *([1] * (weight.dim() - 2)))


def check_strides(argument: str, strides: Sequence[int]) -> tuple[int, ...]:
    """Return `strides` as a tuple if they are ascending strides of a residual network.

    Args:
        argument: name of the argument, used in the error.
        strides: the strides.

    Raises:
        ArgumentError: if the strides are none, repeated, not ascending or not of 4, 8, 16, 32.
    """
    found = tuple(strides)
    if not found or found != tuple(s for s in ENCODER_STRIDES if s in found):
        raise ArgumentError(
            f"{argument}: expected ascending strides of {ENCODER_STRIDES}, got {found}; "
            "give for example (8, 16)."
        )
    return found


def _describe_mismatches(
    expected: Mapping[str, Tensor], given: Mapping[str, Tensor], shown: int = 8
) -> list[str]:
    """Say in a few words which tensors are missing, unknown or of another shape."""
    missing = [k for k in expected if k not in given and not k.endswith("num_batches_tracked")]
    unknown = [k for k in given if k not in expected]
    shapes = [
        f"{k} {tuple(given[k].shape)} instead of {tuple(v.shape)}"
        for k, v in expected.items()
        if k in given and given[k].shape != v.shape
    ]
    found = (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
    return [
        f"{label}: {', '.join(keys[:shown])}"
        + (f" and {len(keys) - shown} more" if len(keys) > shown else "")
        for label, keys in found
        if keys
    ]

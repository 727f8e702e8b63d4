"""AE-FLOW: encoder, normalizing flow, decoder (Zhao, Ding, Zhang, ICLR 2023, 9OmCr1q54Z).

An image x becomes features z = f(x), a latent z' = flow(z) and a reconstruction x' = g(z'). Beyond
the paper, the flow may act at several strides, and a detection head may read the features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .decoder import Decoder
from .encoder import Encoder, check_strides
from .errors import ArgumentError
from .flow import NormalizingFlow
from .head import DetectionHead
from .spatial import SHAPES, SIDES, axes_of, size_of

HEAD_STRIDES = (8, 16, 32)
"""Strides of the features that a detection head reads unless told others."""


class AEFlowOutput(NamedTuple):
    """What the network says of a batch, the same in training and evaluation mode.

    Attributes:
        reconstruction: x', of shape `(B, C, *s)`, on the scale of the input.
        latents: z' per stride of a flow, `(B, channels, *s / stride)`, finest first.
        log_dets: log |det dz'/dz| per stride and position, `(B, *s / stride)`, in nats.
        head: logits of an anomaly, `(B, 1, *s / head_strides[0])`, or None without a head.
        pooled: mean of each feature of the encoder over the image, `(B, sum of its channels)`.
    """

    reconstruction: Tensor
    latents: list[Tensor]
    log_dets: list[Tensor]
    head: Tensor | None
    pooled: Tensor


class AEFlow(nn.Module):
    """Encoder, one flow per stride, decoder, and possibly a detection head.

    `build_aeflow` assembles the parts from plain values.

    Args:
        encoder: yields features at `encoder.strides`.
        flows: one flow per entry of `flow_strides`.
        decoder: maps the latent of the last (deepest) flow to the image.
        flow_strides: strides that the flows act at, ascending, among `encoder.strides`.
        head: reads the features at `head_strides`.
        head_strides: ascending, among `encoder.strides`.
        config: the options from which `build_aeflow` gives this network.

    Attributes:
        flow_strides: the strides of `latents`, in their order.
        config: None for a network assembled by hand.

    Raises:
        ArgumentError: if the strides, the flows and the encoder do not agree.
    """

    def __init__(
        self,
        encoder: Encoder,
        flows: Sequence[NormalizingFlow] | nn.ModuleList,
        decoder: nn.Module,
        flow_strides: Sequence[int] = (8, 16),
        head: DetectionHead | None = None,
        head_strides: Sequence[int] = HEAD_STRIDES,
        config: AEFlowConfig | None = None,
    ) -> None:
        """Assemble the network; see the class for the arguments."""
        super().__init__()
        self.flow_strides = check_strides("flow_strides", flow_strides)
        if len(flows) != len(self.flow_strides):
            raise ArgumentError(
                f"flows: expected {len(self.flow_strides)}, one per entry of flow_strides, "
                f"got {len(flows)}; add or remove flows."
            )
        self._flow_features = _positions("flow_strides", self.flow_strides, encoder)
        read = () if head is None else check_strides("head_strides", head_strides)
        self._head_features = _positions("head_strides", read, encoder)
        self.encoder = encoder
        self.flows = nn.ModuleList(flows)
        self.decoder = decoder
        self.head = head
        self.config = config

    @property
    def latent_channels(self) -> tuple[int, ...]:
        """Channels of each of `AEFlowOutput.latents`."""
        return tuple(self.encoder.channels[position] for position in self._flow_features)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the encoder's features, one tensor per stride of `encoder.strides`.

        Args:
            image: of shape `(B, C, *s)`, each side divisible by the deepest flow's stride.

        Returns:
            Features `(B, encoder.channels[i], *s / stride)`, finest first.

        Raises:
            ArgumentError: if the image has another shape.
        """
        self._check_image(image)
        features: list[Tensor] = self.encoder(image)
        return features

    def from_features(self, features: Sequence[Tensor]) -> AEFlowOutput:
        """Run flows, decoder and head on features, for example on cached ones.

        Args:
            features: those of `encode`.

        Raises:
            ArgumentError: if there are more or fewer features than strides of the encoder.
        """
        self._check_features(features)
        latents, log_dets = [], []
        for flow, position in zip(self.flows, self._flow_features, strict=True):
            latent, log_det = flow(features[position])
            latents.append(latent)
            log_dets.append(log_det)
        head = None if self.head is None else self.detect(features)
        restored = self.decoder(latents[-1])
        return AEFlowOutput(restored, latents, log_dets, head, pool_features(features))

    def detect(self, features: Sequence[Tensor]) -> Tensor:
        """Run the detection head alone, as its training does.

        Args:
            features: those of `encode`.

        Returns:
            Logits `(B, 1, *s / head_strides[0])`.

        Raises:
            ArgumentError: if the network has no head.
        """
        if self.head is None:
            raise ArgumentError("head: this network has none; build it with with_head=True.")
        logits: Tensor = self.head([features[position] for position in self._head_features])
        return logits

    def forward(self, image: Tensor) -> AEFlowOutput:
        """Run the whole network on an image `(B, C, *s)`; see `encode` for its shape."""
        return self.from_features(self.encode(image))

    def initialize_flows(self, batch: Tensor | Sequence[Tensor]) -> None:
        """Fit the flows' ActNorms to data, once, before training.

        Args:
            batch: normal images `(B, C, *s)`, or their features as `encode` returns them.
        """
        features = self.encode(batch) if isinstance(batch, Tensor) else batch
        self._check_features(features)
        flows = cast(Iterable[NormalizingFlow], self.flows)
        for flow, position in zip(flows, self._flow_features, strict=True):
            flow.initialize(features[position])

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the loss of AE-FLOW trains: the flows' and the decoder's."""
        return [*self.flows.parameters(), *self.decoder.parameters()]

    def _check_image(self, image: Tensor) -> None:
        channels, stride = self.encoder.in_channels, self.flow_strides[-1]
        dims = self.encoder.spatial_dims
        if image.dim() != 2 + dims or image.shape[1] != channels:
            raise ArgumentError(
                f"image: expected shape (B, {channels}, {SHAPES[dims]}), got "
                f"{tuple(image.shape)}; give {channels} channel(s) or build the network with "
                "another in_channels or spatial_dims."
            )
        size = size_of(image)
        if any(side % stride or not side for side in size):
            raise ArgumentError(
                f"image: expected {SIDES[dims]} divisible by {stride}, got "
                f"{' x '.join(map(str, size))}; pad or resize the image."
            )

    def _check_features(self, features: Sequence[Tensor]) -> None:
        strides = self.encoder.strides
        if len(features) != len(strides):
            raise ArgumentError(
                f"features: expected {len(strides)} tensors, one per stride of {strides}, "
                f"got {len(features)}; give what encode() returns."
            )


@dataclass(frozen=True)
class AEFlowConfig:
    """Plain values that an AE-Flow network is built from.

    The paper's network is `encoder="wide_resnet50_2"`, `flow_strides=(16,)`, `hidden=1024`,
    `decoder_width=64`, with ImageNet weights.

    Attributes:
        in_channels: channels of the image.
        encoder: one of `ENCODERS`.
        flow_strides: strides that a flow acts at; the decoder starts from the last.
        flow_steps: steps K of each flow.
        subnet: `"conv"` or `"resnet"`.
        hidden: hidden width of the sub-networks; min(channels, 128) if not given.
        scale: `"softplus"` or `"clamped_exp"`.
        clamp: bound of the couplings' log scales.
        decoder_width: channels of the decoder at full resolution.
        with_head: whether to add a detection head.
        head_strides: strides of the features that it reads; the encoder ends at the deepest that is
            read.
        freeze_encoder: whether the encoder is frozen.
        spatial_dims: axes of the image: 1 for signals, 2 for pictures, 3 for volumes.
    """

    in_channels: int = 1
    encoder: str = "resnet18"
    flow_strides: Sequence[int] = (8, 16)
    flow_steps: int = 8
    subnet: str = "conv"
    hidden: int | None = None
    scale: str = "softplus"
    clamp: float = 2.0
    decoder_width: int = 16
    with_head: bool = False
    head_strides: Sequence[int] = HEAD_STRIDES
    freeze_encoder: bool = True
    spatial_dims: int = 2


def build_aeflow(**options: Any) -> AEFlow:
    """Build an AE-Flow network from plain values, which it keeps as `config`.

    Args:
        options: see `AEFlowConfig`.

    Raises:
        ArgumentError: if a name is unknown or a number out of range.

    Example:
        >>> network = build_aeflow(flow_strides=(8,), flow_steps=1)
        >>> network.config.flow_strides
        (8,)
    """
    config = AEFlowConfig(**options)
    strides = check_strides("flow_strides", config.flow_strides)
    by_head = check_strides("head_strides", config.head_strides) if config.with_head else ()
    read = tuple(sorted({*strides, *by_head}))
    dims = config.spatial_dims
    encoder = Encoder(config.encoder, config.in_channels, read, config.freeze_encoder, dims)
    channels = dict(zip(encoder.strides, encoder.channels, strict=True))
    flows = [
        NormalizingFlow(
            channels[stride],
            config.flow_steps,
            config.subnet,
            config.hidden,
            config.scale,
            dims,
            clamp=config.clamp,
        )
        for stride in strides
    ]
    last = strides[-1]
    decoder = Decoder(channels[last], config.in_channels, last, config.decoder_width, dims)
    head = None
    if config.with_head:
        head = DetectionHead([channels[s] for s in by_head], spatial_dims=dims)
    return AEFlow(encoder, flows, decoder, strides, head, config.head_strides, config)


def pool_features(features: Sequence[Tensor]) -> Tensor:
    """Average features `(B, channels[i], *s_i)` over the image: `(B, sum of channels)`."""
    return torch.cat([one.float().mean(dim=axes_of(one)) for one in features], dim=1)


def _positions(argument: str, wanted: Sequence[int], encoder: Encoder) -> tuple[int, ...]:
    """Return where the wanted strides stand among those of the encoder."""
    absent = [stride for stride in wanted if stride not in encoder.strides]
    if absent:
        raise ArgumentError(
            f"{argument}: expected strides among the encoder's {encoder.strides}, "
            f"got {tuple(wanted)}; build the encoder with {tuple(absent)} as well."
        )
    return tuple(encoder.strides.index(stride) for stride in wanted)

"""What methods on features share: an encoder that learns to find synthetic anomalies, frozen then.

The papers take an encoder that has seen ImageNet. Here it is `networks.Encoder`, with the weights
that a user names, or pre-trained as AE-Flow's is, so that methods differ by what they make of the
features alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..aeflow import HEAD_STRIDES
from ..encoder import Encoder, check_strides
from ..head import DetectionHead, HeadOutput, head_loss
from ..pooling import top_mean
from ..spatial import size_of
from .contract import Batches, Detector, Inputs, Stage


class PretrainedDetector(Detector):
    """A method on features of a frozen encoder: gives `from_features`, and what it fits to them.

    Args:
        in_channels: channels of the image.
        strides: of the features, among 4, 8, 16, 32, ascending.
        encoder: one of `networks.ENCODERS`.
        with_head: whether a head pre-trains the encoder; without one its weights are to be loaded.
        head_pool: share of the highest logits whose mean tells an image with an anomaly.
        contrast: see `Detector`.
        spatial_dims: see `Detector`.

    Attributes:
        channels: of the features, per stride.
    """

    dims = (1, 2, 3)

    def __init__(
        self,
        in_channels: int = 1,
        strides: Sequence[int] = (8, 16),
        encoder: str = "resnet18",
        with_head: bool = True,
        head_pool: float = 0.1,
        contrast: str = "none",
        spatial_dims: int = 2,
    ) -> None:
        self.strides = check_strides("strides", strides)
        super().__init__(
            in_channels,
            contrast,
            spatial_dims,
            strides=self.strides,
            encoder=encoder,
            with_head=bool(with_head),
            head_pool=float(head_pool),
        )
        read = sorted({*self.strides, *HEAD_STRIDES}) if with_head else self.strides
        self.encoder = Encoder(encoder, in_channels, read, spatial_dims=spatial_dims)
        channels = dict(zip(self.encoder.strides, self.encoder.channels, strict=True))
        self.channels = tuple(channels[stride] for stride in self.strides)
        self.head = None
        if with_head:
            read_by_head = [channels[stride] for stride in HEAD_STRIDES]
            self.head = DetectionHead(read_by_head, spatial_dims=spatial_dims)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Pre-training of encoder and head, if there is a head."""
        if self.head is None:
            return ()
        found = [*self.encoder.parameters(), *self.head.parameters()]
        return (Stage("pretrain", {"loss": found}, ("loss",), synthetic=True),)

    def load_encoder(self, state_dict: Mapping[str, Tensor]) -> None:
        """Loads the state dict of torchvision's network of the same name."""
        self.encoder.load_torchvision_state_dict(state_dict)

    def encode(self, inputs: Inputs) -> list[Tensor]:
        """The features ``(B, channels[i], *s / strides[i])``."""
        return self._read(inputs, self.strides)

    def from_features(self, features: Sequence[Tensor]) -> Any:
        """What the method makes of the features of `encode`."""
        raise NotImplementedError

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> Any:
        """Runs the head in pre-training, else the method; see `Detector.forward`."""
        if stage == "pretrain":
            assert self.head is not None
            return HeadOutput(self.head(self._read(inputs, HEAD_STRIDES)))
        return self.from_features(self.encode(inputs) if features is None else features)

    def loss(
        self, output: Any, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """In pre-training the cross-entropy of the head's logits with the masks' cover.

        Of a labelled image without a mask, the pooled logits are to tell an anomaly.
        """
        return {"loss": head_loss(output, mask, self.config["head_pool"])}

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Frees the encoder for pre-training, freezes it after."""
        super().prepare(batches, stage)
        if stage == "pretrain":
            self.encoder.unfreeze()
        else:
            self.encoder.freeze()

    def detected(self, output: HeadOutput) -> Tensor:
        """The pooled logits of the head."""
        return top_mean(output.head.float(), self.config["head_pool"])

    def _read(self, inputs: Inputs, strides: Sequence[int]) -> list[Tensor]:
        features = self.encoder(self.normalize(inputs.image))
        found = dict(zip(self.encoder.strides, features, strict=True))
        return [found[stride] for stride in strides]


def stacked(
    features: Sequence[Tensor], resize: Callable[[Tensor, tuple[int, ...]], Tensor]
) -> Tensor:
    """Features of several strides in one tensor, on the grid of the finest.

    Args:
        features: ``(B, channels[i], *s_i)``, finest first.
        resize: brings one of the others to a size.
    """
    size = size_of(features[0])
    others = [resize(one, size) for one in features[1:]]
    return torch.cat([features[0], *others], dim=1)

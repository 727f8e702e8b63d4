"""AnatPaste: learning to tell images with pasted anomalies, then a Gaussian of the features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor
from torch.nn import functional as F

from ..density import GaussianDensity
from ..encoder import Encoder
from ..errors import ArgumentError
from ..spatial import axes_of
from .contract import Batches, Detector, Evidence, Inputs, Part, Stage, register


class AnatPasteOutput(NamedTuple):
    """What the network says of a batch.

    Attributes:
        features: of the last stride, ``(B, D, *s / 32)``.
        activation: the classifier's logit at each position, ``(B, 1, *s / 32)``.
    """

    features: Tensor
    activation: Tensor

    @property
    def pooled(self) -> Tensor:
        """The mean of the features over the image, ``(B, D)``."""
        return self.features.float().mean(dim=axes_of(self.features))

    @property
    def logit(self) -> Tensor:
        """Of an anomaly, ``(B,)``: the classifier is linear in the pooled features."""
        return self.activation.float().mean(dim=(1, *axes_of(self.activation)))


@register("anatpaste")
class AnatPaste(Detector):
    """AnatPaste (Sato et al., 2022, arXiv 2205.04282).

    A network f learns to tell normal images from those with an anomaly pasted into the anatomy, in
    the paper the lungs, here the run's region, by the cross-entropy of a classifier over the
    pooled features. A Gaussian is then fitted to those of the normal images, its covariance S
    shrunk, and an image's score is sqrt((f(x) - m)' S^-1 (f(x) - m)). The map is the classifier's
    activation at each position (Zhou et al., CVPR 2016), for which it is linear.

    Args:
        in_channels: channels of the image.
        encoder: one of `networks.ENCODERS`.
        contrast: see `Detector`.
        spatial_dims: see `Detector`.
    """

    dims = (1, 2, 3)

    def __init__(
        self,
        in_channels: int = 1,
        encoder: str = "resnet18",
        contrast: str = "none",
        spatial_dims: int = 2,
    ) -> None:
        super().__init__(in_channels, contrast, spatial_dims, encoder=encoder)
        self.encoder = Encoder(encoder, in_channels, strides=(32,), spatial_dims=spatial_dims)
        (size,) = self.encoder.channels
        self.classifier = Conv[Conv.CONV, spatial_dims](size, 1, kernel_size=1)
        self.density = GaussianDensity(size)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The distance from normal images, and where the classifier sees an anomaly."""
        return (Part("density", ("activation",)),)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The training of the classifier."""
        found = [*self.encoder.parameters(), *self.classifier.parameters()]
        return (Stage("pretrain", {"loss": found}, ("loss",), synthetic=True),)

    def load_encoder(self, state_dict: Mapping[str, Tensor]) -> None:
        """Loads the state dict of torchvision's network of the same name."""
        self.encoder.load_torchvision_state_dict(state_dict)

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Fits the Gaussian, at the end."""
        super().prepare(batches, stage)
        if stage is not None:
            self.encoder.unfreeze()
            return
        self.encoder.freeze()
        with torch.no_grad():
            features = torch.cat([self(inputs).pooled for inputs in batches])
        self.density.fit(features, torch.zeros_like(features[:1]))

    def forward(
        self, inputs: Inputs, features: Any = None, stage: str | None = None
    ) -> AnatPasteOutput:
        """Runs the network."""
        (found,) = self.encoder(self.normalize(inputs.image))
        return AnatPasteOutput(found, self.classifier(found))

    def loss(
        self, output: AnatPasteOutput, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The cross-entropy of an image's logit with whether it holds an anomaly."""
        if mask is None:
            raise ArgumentError("mask: the training needs the masks of the synthetic anomalies.")
        holds = (mask.nan_to_num(1.0).flatten(1).amax(dim=1) > 0).float()
        return {"loss": F.binary_cross_entropy_with_logits(output.logit, holds)}

    def evidence(self, output: AnatPasteOutput, inputs: Inputs) -> Evidence:
        """The distance, and the activation."""
        return Evidence({"activation": output.activation}, {"density": self.density(output.pooled)})

    def detected(self, output: AnatPasteOutput) -> Tensor:
        """The logits."""
        return output.logit

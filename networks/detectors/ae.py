"""A convolutional autoencoder: what it cannot reconstruct is strange."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from ..convolutional import make_autoencoder
from ..spatial import axes_of
from .contract import Detector, Evidence, Inputs, Part, Stage, register


class AEOutput(NamedTuple):
    """The reconstruction of the normalised image, ``(B, C, *s)``."""

    reconstruction: Tensor


@register("ae")
class AEDetector(Detector):
    """An autoencoder, trained on the mean squared error of normal images alone.

    The score is the reconstruction error ||x - g(f(x))|| of An and Cho, "Variational Autoencoder
    based Anomaly Detection using Reconstruction Probability", 2015, algorithm 1, as a mean over
    pixels and channels; the map is the same per pixel. Encoder and decoder are fully
    convolutional, as the spatial autoencoder of Baur et al., Medical Image Analysis 69, 2021.

    Args:
        in_channels: channels of the image.
        width: channels at full resolution, a multiple of 8.
        code: channels of the bottleneck at stride 16, a multiple of 8; the fewer, the less of an
            anomaly comes through.
        contrast: see `Detector`.
        spatial_dims: see `Detector`.
    """

    dims = (1, 2, 3)

    def __init__(
        self,
        in_channels: int = 1,
        width: int = 16,
        code: int = 32,
        contrast: str = "none",
        spatial_dims: int = 2,
    ) -> None:
        super().__init__(in_channels, contrast, spatial_dims, width=int(width), code=int(code))
        self.network = make_autoencoder(in_channels, in_channels, width, code, spatial_dims)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The reconstruction error."""
        return (Part("residual", ("residual",)),)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One stage."""
        return (Stage("train", {"loss": list(self.network.parameters())}, ("loss",)),)

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> AEOutput:
        """Reconstructs."""
        return AEOutput(self.network(self.normalize(inputs.image)))

    def loss(
        self, output: AEOutput, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The mean squared error."""
        return {"loss": F.mse_loss(output.reconstruction.float(), self.normalize(inputs.image))}

    def evidence(self, output: AEOutput, inputs: Inputs) -> Evidence:
        """The squared error, per pixel and as a mean."""
        made = output.reconstruction.float()
        error = (made - self.normalize(inputs.image)).square().mean(dim=1, keepdim=True)
        values = {"residual": error.mean(dim=(1, *axes_of(error)))}
        return Evidence({"residual": error}, values, self.restore(made, inputs.image))

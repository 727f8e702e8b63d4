"""A denoising autoencoder with skip connections (Kascenas et al., MIDL 2022)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor
from torch.nn import functional as F

from ..convolutional import LEAKY, NORM
from .contract import Detector, Evidence, Inputs, Part, Stage, register

FOREGROUND = 0.01
"""Sum of the channels above which a pixel is foreground."""

WINDOW = 5
"""Side of the erosion of the foreground and of the median filter, in pixels."""


class DAEOutput(NamedTuple):
    """The denoised image, normalised, ``(B, C, H, W)``."""

    denoised: Tensor


@register("dae")
class DAEDetector(Detector):
    """A U-Net that removes coarse noise from normal images, and lesions as if they were noise.

    Kascenas, Pugeault, O'Neil, "Denoising Autoencoders for Unsupervised Anomaly Detection in Brain
    MRI", MIDL 2022. Gaussian noise on a coarse grid is upsampled bilinearly, moved by a random
    offset and added to the foreground, x' = x + m * roll(up(n)), n ~ N(0, noise^2). The loss is
    mean(m * (f(x') - x)^2). At test time f sees the image as it is; the map is the mean over the
    channels of m |x - f(x)|, inside the eroded foreground, after a median filter. The paper scores
    pixels alone; here the mean of the map's highest share scores the image.

    Args:
        in_channels: channels of the image.
        width: channels at full resolution, a multiple of 8; up to 8 times as many at stride 16.
        noise: standard deviation of the noise, in units of the image.
        noise_cells: side of the noise's grid.
        pool: share of the highest positions that score an image, in (0, 1].
        contrast: see `Detector`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        width: int = 32,
        noise: float = 0.2,
        noise_cells: int = 16,
        pool: float = 0.01,
        contrast: str = "none",
    ) -> None:
        super().__init__(
            in_channels, contrast, width=int(width), noise=float(noise),
            noise_cells=int(noise_cells), pool=float(pool),
        )  # fmt: skip
        widths = (width, width, 2 * width, 4 * width, 8 * width, width)
        self.network = BasicUNet(2, in_channels, in_channels, widths, act=LEAKY, norm=NORM)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The residual within the foreground."""
        return (Part("residual", ("residual",), self.config["pool"]),)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One stage."""
        return (Stage("train", {"loss": list(self.network.parameters())}, ("loss",)),)

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> DAEOutput:
        """Denoises the image, which in training is given noise first."""
        image = inputs.image if stage is None else self.with_noise(inputs.image)
        return DAEOutput(self.network(self.normalize(image)))

    def with_noise(self, image: Tensor) -> Tensor:
        """The image ``(B, C, H, W)`` with coarse noise in its foreground."""
        cells, (height, width) = self.config["noise_cells"], image.shape[-2:]
        coarse = self.config["noise"] * torch.randn(
            *image.shape[:2], cells, cells, device=image.device
        )
        noise = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
        offset = torch.randint(max(height, width), (2,)).tolist()  # drawn by the host: no waiting
        noisy: Tensor = image + foreground(image) * noise.roll(offset, dims=(-2, -1))
        return noisy

    def loss(
        self, output: DAEOutput, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The squared error within the foreground."""
        error = (output.denoised.float() - self.normalize(inputs.image)).square()
        return {"loss": (error * foreground(inputs.image)).mean()}

    def evidence(self, output: DAEOutput, inputs: Inputs) -> Evidence:
        """The filtered residual within the eroded foreground."""
        denoised, shown = output.denoised.float(), foreground(inputs.image)
        residual = (denoised - self.normalize(inputs.image)).abs().mean(dim=1, keepdim=True)
        inside = 1.0 - F.max_pool2d(1.0 - shown, WINDOW, stride=1, padding=WINDOW // 2)
        restored = torch.lerp(inputs.image, self.restore(denoised, inputs.image), shown)
        return Evidence({"residual": median_filter(residual * inside)}, {}, restored)


def foreground(image: Tensor) -> Tensor:
    """1 where an image ``(B, C, H, W)`` shows something, 0 elsewhere, ``(B, 1, H, W)``."""
    return (image.sum(dim=1, keepdim=True) > FOREGROUND).to(image.dtype)


def median_filter(value: Tensor) -> Tensor:
    """The median around each pixel of ``(B, 1, H, W)``; by a top-k, which ONNX has."""
    size = value.shape[-2:]
    around = F.unfold(value, WINDOW, padding=WINDOW // 2)
    median = around.topk(WINDOW**2 // 2 + 1, dim=1).values[:, -1:]
    filtered: Tensor = median.unflatten(2, size)
    return filtered

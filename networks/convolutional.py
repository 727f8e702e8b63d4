"""MONAI's convolutional nets as several methods take them, all of stride 16.

Decoders end with a convolution at full resolution: what upsamples alone leaves a grid in the image.
GroupNorm (Wu and He, ECCV 2018) stands for the papers' BatchNorm: an image's score must not depend
on its batch, and short trainings leave BatchNorm's running statistics behind the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.autoencoder import AutoEncoder
from monai.networks.nets.classifier import Discriminator
from monai.networks.nets.generator import Generator
from monai.networks.nets.varautoencoder import VarAutoEncoder
from monai.utils.misc import ensure_tuple_rep
from torch import Tensor

GROUPS = 8
"""Groups of GroupNorm; widths are multiples of it."""

NORM = ("group", {"num_groups": GROUPS})
LEAKY = ("leakyrelu", {"negative_slope": 0.2})
STRIDES = (2, 2, 2, 2)
STRIDES_FROM_FULL = (1, *STRIDES)
STRIDE = 16

Size = int | Sequence[int]
"""Side of an image, or its height and width, in pixels; divisible by `STRIDE`."""


def sides(size: Size) -> tuple[int, int]:
    """Height and width.

    Example:
        >>> sides(96), sides([192, 256])
        ((96, 96), (192, 256))
    """
    height, width = ensure_tuple_rep(size, 2)
    return int(height), int(width)


def make_autoencoder(
    in_channels: int, out_channels: int, width: int, code: int, spatial_dims: int = 2
) -> AutoEncoder:
    """A fully convolutional autoencoder.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the reconstruction.
        width: channels at full resolution, a multiple of 8; then 2, 4 and 8 times as many.
        code: channels of the bottleneck, likewise.
        spatial_dims: 1, 2 or 3.
    """
    channels = (*_widths(width), code)
    return AutoEncoder(
        spatial_dims, in_channels, out_channels, channels, STRIDES_FROM_FULL, norm=NORM, act=LEAKY
    )


def make_vae(
    in_channels: int, out_channels: int, size: Size, width: int, latent: int
) -> VarAutoEncoder:
    """A variational autoencoder whose latent is a vector of so many numbers."""
    return _VAE(
        2, (in_channels, *sides(size)), out_channels, latent, (*_widths(width), 8 * width),
        STRIDES_FROM_FULL, norm=NORM, act=LEAKY, use_sigmoid=False,
    )  # fmt: skip


def make_generator(channels: int, size: Size, width: int, latent: int) -> Generator:
    """Maps latents ``(B, latent)`` to images ``(B, channels, H, W)``, as DCGAN's generator does."""
    height, across = sides(size)
    start = (8 * width, height // STRIDE, across // STRIDE)
    return Generator(
        (latent,), start, (4 * width, 2 * width, width, width, channels), (*STRIDES, 1),
        num_res_units=0, norm=NORM, act="relu",
    )  # fmt: skip


def make_critic(channels: int, size: Size, width: int) -> Discriminator:
    """Maps images to logits ``(B, 1)``; its ``net`` gives the features before the last layer."""
    return Discriminator(
        (channels, *sides(size)), _widths(width), STRIDES, num_res_units=0, act=LEAKY, norm=None,
        dropout=None, last_act=None,
    )  # fmt: skip


class _VAE(VarAutoEncoder):
    """MONAI's takes a view of its features, which those in the GPU's memory format do not have."""

    def encode_forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encode(x).flatten(1)
        return self.mu(code), self.logvar(code)


def _widths(width: int) -> tuple[int, ...]:
    return width, 2 * width, 4 * width, 8 * width

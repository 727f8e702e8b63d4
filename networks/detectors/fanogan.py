"""A Wasserstein GAN of normal images, and an encoder to its latents (f-AnoGAN, Schlegl 2019)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from monai.networks.nets.regressor import Regressor
from torch import Tensor

from ..convolutional import LEAKY, NORM, STRIDES, Size, make_critic, make_generator, sides
from .contract import Detector, Evidence, Inputs, Part, Stage, register

LEAST_NORM = 1e-12
"""Added to a squared norm, whose root has no gradient at 0."""


class GameOutput(NamedTuple):
    """A round of the game: images of random latents, and the critic's opinion of them."""

    made: Tensor
    fake: Tensor


class EncodedOutput(NamedTuple):
    """An image against the generator's for its latent.

    Attributes:
        reconstruction: G(E(x)), normalised, ``(B, C, H, W)``.
        found: the critic's features of it.
        wanted: the critic's features of the image.
    """

    reconstruction: Tensor
    found: Tensor
    wanted: Tensor


@register("fanogan")
class FAnoGANDetector(Detector):
    """f-AnoGAN: an encoder takes the place of AnoGAN's search.

    Schlegl, Seeboeck, Waldstein, Langs, Schmidt-Erfurth, "f-AnoGAN: Fast unsupervised anomaly
    detection with generative adversarial networks", Medical Image Analysis 54, 2019. In the stage
    ``pretrain`` generator G and critic D are trained as a WGAN with gradient penalty (Gulrajani et
    al., NeurIPS 2017): D minimises D(G(z)) - D(x) + 10 (|grad D(x')| - 1)^2 with x' between the
    two, G minimises -D(G(z)); here D takes one step for each of G, not five. In ``train`` the
    encoder E minimises the izi_f loss, |x - G(E(x))|^2 / n + k |f(x) - f(G(E(x)))|^2 / n_f, with f
    the features before D's last layer. The score is the same sum, A(x) = A_R(x) + k A_D(x); the
    map is |x - G(E(x))|.

    Args:
        in_channels: channels of the image.
        image_size: side of the image in pixels, or height and width; divisible by 16.
        width: channels of the nets at full resolution, a multiple of 8.
        latent: numbers of the latent.
        kappa: weight k of the critic's features.
        penalty: weight of the gradient penalty.
        contrast: see `Detector`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: Size = 96,
        width: int = 16,
        latent: int = 64,
        kappa: float = 1.0,
        penalty: float = 10.0,
        contrast: str = "none",
    ) -> None:
        super().__init__(
            in_channels, contrast, image_size=image_size, width=int(width), latent=int(latent),
            kappa=float(kappa), penalty=float(penalty),
        )  # fmt: skip
        self.generator = make_generator(in_channels, image_size, width, latent)
        self.critic = make_critic(in_channels, image_size, width)
        self.encoder = Regressor(
            (in_channels, *sides(image_size)), (latent,), (width, 2 * width, 4 * width, 8 * width),
            STRIDES, num_res_units=0, act=LEAKY, norm=NORM,
        )  # fmt: skip

    @property
    def parts(self) -> tuple[Part, ...]:
        """The anomaly score, with the residual as its map."""
        return (Part("anomaly", ("residual",)),)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The game, then the encoder."""
        game = {
            "generator_loss": list(self.generator.parameters()),
            "critic_loss": list(self.critic.parameters()),
        }
        encoder = {"loss": list(self.encoder.parameters())}
        return Stage("pretrain", game, tuple(game)), Stage("train", encoder, ("loss",))

    def forward(
        self, inputs: Inputs, features: Any = None, stage: str | None = None
    ) -> GameOutput | EncodedOutput:
        """Plays a round of the game in ``pretrain``; else encodes and generates."""
        image = self.normalize(inputs.image)
        if stage == "pretrain":
            latent = torch.randn(len(image), self.config["latent"], device=image.device)
            made = self.generator(latent)
            return GameOutput(made, self.critic(made))
        made = self.generator(self.encoder(image))
        return EncodedOutput(made, self.critic.net(made), self.critic.net(image))

    def loss(
        self,
        output: GameOutput | EncodedOutput,
        inputs: Inputs,
        stage: str,
        mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The Wasserstein losses with the gradient penalty, or the izi_f loss."""
        image = self.normalize(inputs.image)
        if isinstance(output, EncodedOutput):
            return {"loss": self.compared(output, image).mean()}
        made = output.made.detach()
        margin = self.critic(made).float().mean() - self.critic(image).float().mean()
        penalty = self.config["penalty"] * self.gradient_penalty(image, made)
        return {"generator_loss": -output.fake.float().mean(), "critic_loss": margin + penalty}

    def gradient_penalty(self, image: Tensor, made: Tensor) -> Tensor:
        """The mean of (|grad D(x')| - 1)^2 at points between images and made ones."""
        with torch.enable_grad(), torch.autocast(image.device.type, enabled=False):
            share = torch.rand(len(image), 1, 1, 1, device=image.device)
            between = torch.lerp(made.float(), image.float(), share).requires_grad_()
            judged = self.critic(between).sum()
            (gradient,) = torch.autograd.grad(judged, between, create_graph=True)
        norm = (gradient.flatten(1).square().sum(dim=1) + LEAST_NORM).sqrt()
        return (norm - 1.0).square().mean()

    def compared(self, output: EncodedOutput, image: Tensor) -> Tensor:
        """A_R + k A_D ``(B,)`` for normalised images ``(B, C, H, W)``."""
        residual = (output.reconstruction.float() - image).square().flatten(1).mean(dim=1)
        features = (output.found - output.wanted).float().square().flatten(1).mean(dim=1)
        score: Tensor = residual + self.config["kappa"] * features
        return score

    def evidence(self, output: EncodedOutput, inputs: Inputs) -> Evidence:
        """The score and the residual."""
        image, made = self.normalize(inputs.image), output.reconstruction.float()
        residual = (made - image).abs().mean(dim=1, keepdim=True)
        values = {"anomaly": self.compared(output, image)}
        return Evidence({"residual": residual}, values, self.restore(made, inputs.image))

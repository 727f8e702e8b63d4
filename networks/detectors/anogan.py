"""A GAN of normal images, and a search for the latent of an image (Schlegl et al., IPMI 2017)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..convolutional import Size, make_critic, make_generator
from .contract import Detector, Evidence, Inputs, Part, Stage, register


class GANOutput(NamedTuple):
    """A round of the game.

    Attributes:
        image: normalised, ``(B, C, H, W)``.
        made: as many images of the generator.
        real: the critic's logits ``(B, 1)`` of `image`.
        fake: likewise of `made`.
    """

    image: Tensor
    made: Tensor
    real: Tensor
    fake: Tensor


@register("anogan")
class AnoGANDetector(Detector):
    """AnoGAN: what the generator cannot show is strange.

    Schlegl, Seeboeck, Waldstein, Schmidt-Erfurth, Langs, "Unsupervised Anomaly Detection with
    Generative Adversarial Networks to Guide Marker Discovery", IPMI 2017. Generator G and
    discriminator D play the game of DCGAN, G with the non-saturating loss. At test time gradient
    steps (Adam, its rate falling) on z lower (1 - l) R(z) + l D(z), where R(z) = sum |x - G(z)|
    and, by feature matching, D(z) = sum |f(x) - f(G(z))| with f the features before D's last layer.
    The score is the same sum at the z that is found, A(x) = (1 - l) R(x) + l D(x); the map is
    |x - G(z)|. Both sums are divided by the number of pixels and channels. The search starts from
    one latent that is drawn once and kept.

    Args:
        in_channels: channels of the image.
        image_size: side of the image in pixels, or height and width; divisible by 16.
        width: channels of the nets at full resolution, a multiple of 8.
        latent: numbers of the latent.
        steps: of the search; the paper takes 500.
        rate: learning rate of the search, at its start; a larger one makes more of rounding, and
            so of the batch.
        share: weight l of the discriminator in the search and the score, in [0, 1].
        starts: latents from which a search starts.
        contrast: see `Detector`.
        **options: further plain arguments of a subclass, for `config`.
    """

    exportable = False
    starts: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        image_size: Size = 96,
        width: int = 16,
        latent: int = 64,
        steps: int = 100,
        rate: float = 0.02,
        share: float = 0.1,
        starts: int = 1,
        contrast: str = "none",
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels, contrast, image_size=image_size, width=int(width), latent=int(latent),
            steps=int(steps), rate=float(rate), share=float(share), starts=int(starts), **options,
        )  # fmt: skip
        self.generator = make_generator(in_channels, image_size, width, latent)
        self.critic = make_critic(in_channels, image_size, width)
        self.register_buffer("starts", torch.randn(starts, latent))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The anomaly score, with the residual as its map."""
        return (Part("anomaly", ("residual",)),)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One stage of two players."""
        groups = {
            "generator_loss": list(self.generator.parameters()),
            "critic_loss": list(self.critic.parameters()),
        }
        return (Stage("train", groups, tuple(groups)),)

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> GANOutput:
        """Plays a round with random latents, or with the start of a search."""
        image = self.normalize(inputs.image)
        latent = self.starts[:1].expand(len(image), -1)
        made = self.generator(latent if stage is None else torch.randn_like(latent))
        return GANOutput(image, made, self.critic(image), self.critic(made))

    def loss(
        self, output: GANOutput, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """-log D(G(z)) for the generator; the cross-entropy for the discriminator."""
        judged = self.critic(output.made.detach())
        critic = F.softplus(-output.real.float()).mean() + F.softplus(judged.float()).mean()
        return {"generator_loss": F.softplus(-output.fake.float()).mean(), "critic_loss": critic}

    def evidence(self, output: GANOutput, inputs: Inputs) -> Evidence:
        """The score and the residual of the latent that a search finds."""
        with torch.enable_grad():
            latent = self.starts[:1].repeat(len(output.image), 1).requires_grad_()
            optimizer = torch.optim.Adam([latent], lr=self.config["rate"])
            schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, self.config["steps"])
            for _ in range(self.config["steps"]):
                lost = self.compared(output.image, self.generator(latent)).sum()
                (latent.grad,) = torch.autograd.grad(lost, latent)
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            made = self.generator(latent)
            residual = (made - output.image).abs().mean(dim=1, keepdim=True)
            values = {"anomaly": self.compared(output.image, made)}
        return Evidence({"residual": residual}, values, self.restore(made, inputs.image))

    def compared(self, image: Tensor, made: Tensor) -> Tensor:
        """The weighted sum of R and D ``(B,)`` for images ``(B, C, H, W)``."""
        share, size = self.config["share"], image[0].numel()
        residual = (image - made).abs().flatten(1).sum(dim=1)
        features = (self.critic.net(image) - self.critic.net(made)).abs().flatten(1).sum(dim=1)
        score: Tensor = ((1.0 - share) * residual + share * features) / size
        return score

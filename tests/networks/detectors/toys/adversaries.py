"""A toy with two optimisers: an autoencoder against a critic."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from networks.detectors import Detector, Evidence, Inputs, Part, Stage, register


class Output(NamedTuple):
    """The reconstruction ``(B, C, H, W)`` and the critic's logits of it and of the image."""

    reconstruction: Tensor
    fake: Tensor
    real: Tensor


@register("adversaries")
class Adversaries(Detector):
    """Reconstructs images so that a critic cannot tell them from the originals.

    Args:
        in_channels: channels of the image.
    """

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__(in_channels)
        self.generator = nn.Sequential(
            nn.Conv2d(in_channels, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(4, in_channels, 4, stride=2, padding=1),
        )
        self.critic = nn.Conv2d(in_channels, 1, 8, stride=8)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The residual and the critic's opinion."""
        return Part("residual", ("residual",), 0.1), Part("critic")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One stage of two groups."""
        terms = {
            "generator_loss": list(self.generator.parameters()),
            "critic_loss": list(self.critic.parameters()),
        }
        return (Stage("train", terms, (*terms, "residual")),)

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> Output:
        """Reconstructs and judges."""
        image = self.normalize(inputs.image)
        made = self.generator(image)
        return Output(made, self.critic(made), self.critic(image))

    def loss(
        self, output: Output, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The generator's and the critic's loss."""
        residual = F.mse_loss(output.reconstruction, self.normalize(inputs.image))
        judged = self.critic(output.reconstruction.detach())
        return {
            "generator_loss": residual + 0.01 * F.softplus(-output.fake).mean(),
            "critic_loss": F.softplus(judged).mean() + F.softplus(-output.real).mean(),
            "residual": residual,
        }

    def evidence(self, output: Output, inputs: Inputs) -> Evidence:
        """The residual's map, and how unreal the image looks."""
        image = self.normalize(inputs.image)
        residual = (output.reconstruction - image).abs().mean(dim=1, keepdim=True)
        values = {"critic": -output.real.mean(dim=(1, 2, 3))}
        return Evidence(
            {"residual": residual}, values, self.restore(output.reconstruction, inputs.image)
        )

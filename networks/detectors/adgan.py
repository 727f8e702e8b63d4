"""AnoGAN's search from several starts, which adapts the generator too (ADGAN, Deecke 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from .anogan import AnoGANDetector, GANOutput
from .contract import Evidence, Inputs, register

TOGETHER = 8
"""Images that are searched for at once; each needs copies of the generator."""


@register("adgan")
class ADGANDetector(AnoGANDetector):
    """ADGAN: how near the generator comes to an image, on average over several starts.

    Deecke, Vandermeulen, Ruff, Mandt, Kloft, "Image Anomaly Detection with Generative Adversarial
    Networks", ECML PKDD 2018, algorithm 1. For each start z_j and a copy of the generator's
    parameters t_j, gradient steps (Adam) lower l(G(z_j; t_j), x) in both; the score is the mean
    over the starts of l after the last step, with l the squared error as a mean over pixels and
    channels, the map the same per pixel. The GAN is AnoGAN's. The starts are drawn once and kept.

    Args:
        starts: their number.
        steps: of each search.
        rate: learning rate of the latents.
        generator_rate: learning rate of the generator's parameters.
        **options: see `AnoGANDetector`; its ``share`` is not used.
    """

    def __init__(
        self,
        starts: int = 4,
        steps: int = 25,
        rate: float = 0.2,
        generator_rate: float = 5e-5,
        **options: Any,
    ) -> None:
        super().__init__(
            starts=starts, steps=steps, rate=rate, generator_rate=float(generator_rate), **options
        )

    def evidence(self, output: GANOutput, inputs: Inputs) -> Evidence:
        """The mean squared error that is left, and the mean of what the searches find."""
        made = torch.cat([self.searched(image) for image in output.image.split(TOGETHER)])
        error = (made - output.image[:, None]).square().mean(dim=(1, 2)).unsqueeze(1)
        values = {"anomaly": error.mean(dim=(1, 2, 3))}
        return Evidence({"residual": error}, values, self.restore(made.mean(dim=1), inputs.image))

    def searched(self, image: Tensor) -> Tensor:
        """What each search finds, ``(B, S, C, H, W)``, for images ``(B, C, H, W)``."""
        starts, count = self.config["starts"], len(image) * self.config["starts"]
        target = image.repeat_interleave(starts, dim=0)
        latent = self.starts.repeat(len(image), 1).requires_grad_()
        copies = {
            name: value.expand(count, *value.shape).clone().requires_grad_()
            for name, value in self.generator.named_parameters()
        }
        free = [latent, *copies.values()]
        optimizer = torch.optim.Adam(
            [
                {"params": free[:1], "lr": self.config["rate"]},
                {"params": free[1:], "lr": self.config["generator_rate"]},
            ]
        )
        with torch.enable_grad():
            for _ in range(self.config["steps"]):
                lost = (self._made(copies, latent) - target).square().flatten(1).mean(dim=1).sum()
                for value, gradient in zip(free, torch.autograd.grad(lost, free), strict=True):
                    value.grad = gradient
                optimizer.step()
        made: Tensor = self._made(copies, latent).detach().unflatten(0, (len(image), starts))
        return made

    def _made(self, copies: dict[str, Tensor], latent: Tensor) -> Tensor:
        """What each copy of the generator makes of its latent."""

        def make(own: dict[str, Tensor], one: Tensor) -> Tensor:
            made: Tensor = functional_call(self.generator, own, (one[None],))
            return made[0]

        made: Tensor = vmap(make)(copies, latent)
        return made

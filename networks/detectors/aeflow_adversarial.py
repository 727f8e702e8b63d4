"""AE-FLOW whose reconstructions a critic cannot tell from images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from torch import Tensor

from ..aeflow import AEFlowOutput
from ..errors import ArgumentError
from .aeflow import AEFlowDetector
from .contract import Inputs, Stage, register

CRITIC: Mapping[str, Any] = {"channels": 32, "num_layers_d": 2, "norm": "INSTANCE"}
"""The critic: two convolutions that halve the image, two more, without mixing images."""


class AdversarialOutput(NamedTuple):
    """What training needs of the network.

    Attributes:
        network: of AE-FLOW.
        fake: the critic's opinion of the reconstruction's patches, ``(B, 1, *s)``, near 1 for
            those that look real, near 0 for others.
        real: likewise of the image.
    """

    network: AEFlowOutput
    fake: Tensor
    real: Tensor


@register("aeflow_adversarial")
class AdversarialAEFlow(AEFlowDetector):
    """AE-FLOW with an adversarial term beside the squared error, which alone blurs.

    A critic D of patches (Isola et al., CVPR 2017) minimises mean (D(x) - 1)^2 + mean D(x')^2,
    and the reconstruction x' adversarial * mean (D(x') - 1)^2 (Mao et al., ICCV 2017), beside the
    loss of AE-FLOW. The critic takes no part in the evidence.

    Args:
        adversarial: weight of the term.
        **options: see `AEFlowDetector`.

    Raises:
        ArgumentError: for a weight below 0.
    """

    def __init__(self, adversarial: float = 0.05, **options: Any) -> None:
        if not adversarial >= 0.0:
            raise ArgumentError(f"adversarial: expected a number from 0 on, got {adversarial}.")
        super().__init__(**options)
        self.config["adversarial"] = float(adversarial)
        self.critic = PatchDiscriminator(self.spatial_dims, in_channels=self.in_channels, **CRITIC)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those of AE-FLOW, the critic learning beside flow and decoder."""
        *before, train = super().stages
        groups = {**train.groups, "critic_loss": list(self.critic.parameters())}
        terms = (*groups, *train.terms[1:], "adversarial_loss")
        return *before, train._replace(groups=groups, terms=terms)

    def forward(self, inputs: Inputs, features: Any = None, stage: str | None = None) -> Any:
        """Runs the network, and the critic in training; see `Detector.forward`."""
        output: Any = super().forward(inputs, features, stage)
        if stage != "train":
            return output
        fake = self.critic(output.reconstruction)[-1]
        return AdversarialOutput(output, fake, self.critic(self.normalize(inputs.image))[-1])

    def loss(
        self, output: Any, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss of AE-FLOW with the adversarial term, and the critic's."""
        if stage != "train":
            return super().loss(output, inputs, stage, mask)
        terms = super().loss(output.network, inputs, stage, mask)
        fake, real = output.fake.float(), output.real.float()
        adversarial = (fake - 1).square().mean()
        critic = (real - 1).square().mean() + fake.square().mean()
        total = terms.pop("loss") + self.config["adversarial"] * adversarial
        return {"loss": total, "critic_loss": critic, **terms, "adversarial_loss": adversarial}

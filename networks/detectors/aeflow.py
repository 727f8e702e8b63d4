"""AE-FLOW as a detector: likelihood of the features, reconstruction, and a detection head."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from torch import Tensor, nn

from ..aeflow import AEFlow, AEFlowOutput, build_aeflow, pool_features
from ..choices import choose
from ..contrast import gaussian_blur
from ..density import GaussianDensity
from ..errors import ArgumentError
from ..head import HeadOutput, head_loss
from ..loss import AEFlowLoss, likelihoods
from ..mixture import LabelledMixture
from ..normative import NormativeMap, as_images, as_slices, by_case, smoothed
from ..pooling import top_mean
from ..similarity import StructuralSimilarity, check_window
from ..spatial import breadth, mean_in_cells, size_of
from .contract import Batches, Detector, Evidence, Inputs, Part, Stage, register

logger = logging.getLogger(__name__)

LEAST_AGREEMENT = 0.75
"""Dice score of the bodies' outlines from which the same place means the same tissue."""

NORMATIVE_POOL = 0.01
"""Share of the brightest, or darkest, positions that score an image."""

INITIAL_IMAGES = 64
"""Images from which the flows' ActNorms are initialised."""

LABELS: Mapping[str, tuple[float, float]] = {"images": (1.0, 0.0), "masks": (0.5, 1.0)}
"""What may be known of labelled anomalies, with the weights of ``labelled`` in score and map."""

BLURS = (0.4, 3.0)
"""Range of the blur that is not to matter to the density, in pixels of a side of 224."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""Its multiples, modulo 1, spread evenly however many there are."""


@register("aeflow")
class AEFlowDetector(Detector):
    """AE-FLOW (Zhao, Ding, Zhang, ICLR 2023), with a head that synthetic anomalies train.

    Its stages are ``pretrain``, where encoder and head learn to find synthetic anomalies in normal
    images (only with a head), and ``train``, where the encoder is frozen and flow and decoder
    learn the normal images. Its parts are ``flow``, the negative log likelihood of the features;
    ``recon``, whose map is the smoothed residual and whose value is the paper's S_recon = -SSIM;
    ``head``; and ``density``, the distance of the pooled features of all strides from those of
    normal images, in which sharpness counts little. Its value ``latent`` is the paper's S_flow, in
    logs and per dimension.

    Args:
        network: assembled by hand; None builds it from `architecture`.
        alpha: weight of the likelihood in the loss of ``train``, in [0, 1].
        flow_pool: share of the least likely positions whose mean is the flow's evidence, in
            (0, 1]: small for focal disease, 1 for diffuse disease.
        head_pool: likewise for the head.
        map_pool: likewise for the fused map, whose pooled value is the part ``local`` of volumes.
        normative_share: of the normative map in a volume's fused map, in [0, 1]; flow and head have
            the rest. In the score it is the weight of ``bright`` beside the pooled map. High for a
            network that was trained briefly.
        smoothing: standard deviation of the Gaussian that smooths the residual, in pixels.
        contrast: see `Detector`.
        normative: whether it has the parts ``bright`` and ``dark``, as volumes may; None lets
            `prepare` decide.
        labels: what labelled anomalies it learns from too: ``images`` that hold one, or ``masks``
            that say where; None for none. The head learns to find them; the flow maps them to a
            component of their own, see `LabelledMixture`, whose log odds are the part ``labelled``.
        **architecture: see `networks.build_aeflow`.

    Raises:
        ArgumentError: for an unknown name or a number out of range.
    """

    dims = (1, 2, 3)
    blur_kernel: Tensor

    def __init__(
        self,
        network: AEFlow | None = None,
        alpha: float = 0.5,
        flow_pool: float = 0.5,
        head_pool: float = 0.1,
        map_pool: float = 0.01,
        normative_share: float = 0.23,
        smoothing: float = 2.0,
        contrast: str = "none",
        normative: bool | None = None,
        labels: str | None = None,
        **architecture: Any,
    ) -> None:
        if labels is not None:
            choose("labels", labels, LABELS)
        pools = {"flow_pool": flow_pool, "head_pool": head_pool, "map_pool": map_pool}
        for name, share in pools.items():
            if not 0.0 < share <= 1.0:
                raise ArgumentError(f"{name}: expected a share in (0, 1], got {share}.")
        network = network or build_aeflow(**architecture)
        encoder = network.encoder
        known = {"in_channels": encoder.in_channels, "spatial_dims": encoder.spatial_dims}
        built = {} if network.config is None else dataclasses.asdict(network.config)
        if normative and encoder.spatial_dims < 2:
            raise ArgumentError(
                "normative: expected false for spatial_dims 1, got true; signals have no place in "
                "a body."
            )
        super().__init__(
            **known | built,
            alpha=float(alpha),
            flow_pool=float(flow_pool),
            head_pool=float(head_pool),
            map_pool=float(map_pool),
            normative_share=float(normative_share),
            smoothing=float(smoothing),
            contrast=contrast,
            normative=normative,
        )
        if labels is not None:
            self.config["labels"] = labels
        self.normative = NormativeMap(self.in_channels) if normative else None
        self.network = network
        self.density = GaussianDensity(sum(encoder.channels))
        self.criterion = AEFlowLoss(alpha)
        self.mixtures = nn.ModuleList(
            LabelledMixture(channels, spatial_dims=encoder.spatial_dims)
            for channels in network.latent_channels
            if labels
        )
        # Computed once: MONAI's GaussianFilter reads its sigma back at every call, which makes the
        # host wait for the device and cannot be exported.
        kernel = gaussian_1d(torch.tensor(float(smoothing)))
        self.register_buffer("blur_kernel", kernel, persistent=False)
        self.similarity = StructuralSimilarity()

    @property
    def flow_maps(self) -> tuple[str, ...]:
        """Names of the likelihood's maps, one per stride."""
        return tuple(f"flow{stride}" for stride in self.network.flow_strides)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it has of them; PROTOCOL.md tells how the weights were found."""
        flow = Part("flow", self.flow_maps, self.config["flow_pool"])
        recon, density = Part("recon", ("recon",)), Part("density")
        head = Part("head", ("head",), self.config["head_pool"])
        if self.normative is not None:
            share = self.config["normative_share"]
            rest = 1.0 - share
            found = self._weighed(
                (flow, 0.0, 0.4 * rest), (recon, 0.0, 0.0), (head, 0.0, 0.6 * rest),
                (Part("bright", ("bright",), NORMATIVE_POOL, "normative"), share, share),
                (Part("dark", ("dark",), NORMATIVE_POOL), 0.0, 0.03 * rest),
                (density, 0.25 * rest, 0.0),
            )  # fmt: skip
            return (*found, Part("local", pool=self.config["map_pool"]), *self._labelled())
        if self.network.head is not None:
            return (
                *self._weighed((flow, 0.0, 0.18), (recon, 0.0, 0.02), (head, 1.0, 0.8)),
                density,
                *self._labelled(),
            )
        return (*self._weighed((flow, 0.9, 0.9), (recon, 0.1, 0.1)), density, *self._labelled())

    def _labelled(self) -> tuple[Part, ...]:
        if "labels" not in self.config:
            return ()
        maps = tuple(f"odds{stride}" for stride in self.network.flow_strides)
        weight, map_weight = LABELS[self.config["labels"]]
        pool = self.config["head_pool"]
        return (Part("labelled", maps, pool, weight=weight, map_weight=map_weight),)

    def _weighed(self, *parts: tuple[Part, float, float]) -> tuple[Part, ...]:
        """Those of the parts that are there, with their weights in score and map."""
        return tuple(
            part._replace(weight=weight, map_weight=map_weight)
            for part, weight, map_weight in parts
            if part.name != "head" or self.network.head is not None
        )

    @property
    def _mixtures(self) -> Sequence[LabelledMixture]:
        return cast("Sequence[LabelledMixture]", self.mixtures)

    @property
    def needs(self) -> tuple[str, ...]:
        """The body and the place in it, for the normative map."""
        return ("body", "place") if self.normative is not None else ()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Pre-training of encoder and head, if there is a head; training of flow and decoder."""
        network = self.network
        terms = ("loss", "flow_loss", "recon_loss")
        found = {"loss": network.trainable_parameters()}
        train = Stage("train", found, terms, cached=True, labelled=bool(self.mixtures))
        if network.head is None:
            return (train,)
        found = {"loss": [*network.encoder.parameters(), *network.head.parameters()]}
        return Stage("pretrain", found, ("loss",), synthetic=True), train

    def load_encoder(self, state_dict: Mapping[str, Tensor]) -> None:
        """Loads the state dict of torchvision's network of the same name."""
        self.network.encoder.load_torchvision_state_dict(state_dict)

    def companion(self) -> dict[str, Any]:
        """Without the normative map, which is the same in all members."""
        return {**self.config, "normative": False}

    def encode(self, inputs: Inputs) -> list[Tensor]:
        """The encoder's features, one tensor per stride."""
        check_window(inputs.image)
        return self.network.encode(self.normalize(inputs.image))

    def forward(
        self, inputs: Inputs, features: Any = None, stage: str | None = None
    ) -> AEFlowOutput | HeadOutput:
        """Runs the network; see `Detector.forward`."""
        features = self.encode(inputs) if features is None else features
        if stage == "pretrain":
            return HeadOutput(self.network.detect(features))
        return self.network.from_features(features)

    def loss(
        self,
        output: AEFlowOutput | HeadOutput,
        inputs: Inputs,
        stage: str,
        mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The loss of AE-FLOW; in pre-training the cross-entropy with the masks' cover.

        Of a labelled image without a mask, the head's pooled logits are to tell an anomaly.
        """
        if isinstance(output, HeadOutput):
            return {"loss": head_loss(output, mask, self.config["head_pool"])}
        image = self.normalize(inputs.image)
        if mask is not None and self.mixtures:
            output, image = self._by_labels(output, image, mask)
        terms = self.criterion.terms(output, image)
        return {"loss": terms.total, "flow_loss": terms.flow, "recon_loss": terms.reconstruction}

    def _by_labels(
        self, output: AEFlowOutput, image: Tensor, mask: Tensor
    ) -> tuple[AEFlowOutput, Tensor]:
        """The flow learns all images, each position by its component; the decoder the normal."""
        normal = (mask == 0).flatten(1).all(dim=1)
        latents = [
            mixture.centred(latent, mean_in_cells(mask, size_of(latent)))
            for mixture, latent in zip(self._mixtures, output.latents, strict=True)
        ]
        restored = output.reconstruction[normal]
        return output._replace(latents=latents, reconstruction=restored), image[normal]

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Frees the encoder for pre-training, freezes it after; fits flows and density."""
        super().prepare(batches, stage)
        if stage == "pretrain":
            self.network.encoder.unfreeze()
            return
        self.network.encoder.freeze()
        with torch.no_grad():
            if stage == "train":
                first = batches.spread(INITIAL_IMAGES)
                self.network.initialize_flows(self.normalize(first.image))
            else:
                self._fit_density(batches)
                self._fit_normative(batches)

    def _fit_normative(self, batches: Batches) -> None:
        if self.config["normative"] is False:
            return
        fitted = NormativeMap(self.in_channels).to(self.input_mean.device)
        agreement = fitted.fit(by_case(batches)) if "place" in batches.spread(1).context else 0.0
        if self.config["normative"] is None:
            self.config["normative"] = agreement >= LEAST_AGREEMENT
        self.normative = fitted if self.config["normative"] else None
        if agreement:
            logger.info(
                "Normative map: the bodies' outlines agree by a Dice score of %.2f; it is %s.",
                agreement,
                "used" if self.normative else "left out",
            )

    def _fit_density(self, batches: Batches) -> None:
        plain: list[Tensor] = []
        blurred: list[Tensor] = []
        seen = 0
        for inputs in batches:
            count = len(inputs.image)
            sigma = _spread_sigmas(range(seen, seen + count), inputs.image)
            soft = inputs._replace(image=gaussian_blur(inputs.image, sigma))
            plain.append(pool_features(self.encode(inputs)))
            blurred.append(pool_features(self.encode(soft)))
            seen += count
        features = torch.cat(plain)
        self.density.fit(features, torch.cat(blurred) - features)

    def evidence(self, output: AEFlowOutput, inputs: Inputs) -> Evidence:
        """Likelihood per position, smoothed residual, logits; S_flow and S_recon of the paper."""
        prior, density = likelihoods(output)
        maps = dict(zip(self.flow_maps, (-one.unsqueeze(1) for one in density), strict=True))
        normalized = self.normalize(inputs.image).float()
        reconstruction = output.reconstruction.float()
        residual = (normalized - reconstruction).abs().mean(dim=1, keepdim=True)
        maps["recon"] = separable_filtering(residual, [self.blur_kernel] * self.spatial_dims)
        if output.head is not None:
            maps["head"] = output.head.float()
        maps |= self._deviation(inputs)
        for stride, mixture, latent in zip(
            self.network.flow_strides, self._mixtures, output.latents, strict=False
        ):
            maps[f"odds{stride}"] = mixture.log_odds(latent).unsqueeze(1)
        sizes = [z[0].numel() for z in output.latents]
        means = [
            m.mean(dim=tuple(range(1, m.ndim))) * n / sum(sizes)
            for m, n in zip(prior, sizes, strict=True)
        ]
        restored = self.restore(reconstruction, inputs.image)
        values = {
            "latent": -torch.stack(means).sum(dim=0),
            "recon": -self.similarity(restored.clamp(0.0, 1.0), inputs.image),
            "density": self.density(output.pooled),
        }
        return Evidence(maps, values, restored)

    def _deviation(self, inputs: Inputs) -> dict[str, Tensor]:
        """How far each pixel lies from what is usual; 0 where its place is not told."""
        if self.normative is None:
            return {}
        if "place" in inputs.context:
            slices = smoothed(self.normative(*as_slices(inputs.image, inputs.context)))
            found = as_images(slices, inputs.image)
        else:
            found = torch.zeros_like(inputs.image[:, :1])
        return {"bright": found, "dark": -found}

    def detected(self, output: HeadOutput) -> Tensor:
        """The pooled logits of the head."""
        return top_mean(output.head.float(), self.config["head_pool"])


def _spread_sigmas(indices: range, image: Tensor) -> Tensor:
    """One blur for each image of the data set: spread over `BLURS` evenly in their logarithm."""
    low, high = (math.log(sigma * breadth(image) / 224) for sigma in BLURS)
    shares = torch.tensor([index * GOLDEN % 1.0 for index in indices])
    return torch.exp(low + (high - low) * shares).to(image)

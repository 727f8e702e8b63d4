"""From an image to an anomaly map and a calibrated score."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from monai.metrics.regression import compute_ssim_and_cs
from monai.networks.layers import gaussian_1d, separable_filtering
from torch import Tensor, nn
from torch.nn import functional as F

from .aeflow import AEFlow, AEFlowOutput
from .choices import choose
from .errors import ArgumentError
from .levels import N_LEVELS
from .loss import likelihoods

N_QUANTILES = 1001
"""Points of the grid of normal scores from which percentiles are read."""

LINEAR_RANGE = 3.0
"""Standard deviations up to which `compress` leaves values about as they are."""

SCORES = ("fused", "paper", "flow", "recon", "head")
"""The image scores that can be asked for."""


class Parts(NamedTuple):
    """The raw evidence about a batch, before any calibration.

    Attributes:
        maps: per part a map ``(B, 1, h, w)``; flow parts in nats per dimension, one per stride,
            the reconstruction part as smoothed absolute residual of the normalised image, the
            head part as logits.
        latent_nll: ``-log p(z') / D`` without the log-determinant, ``(B,)``, the paper's S_flow
            taken in logs and per dimension.
        dissimilarity: ``-SSIM(x, x')`` in [-1, 1], ``(B,)``, the paper's S_recon.
        reconstruction: in the units of the input image, ``(B, C, H, W)``.
    """

    maps: dict[str, Tensor]
    latent_nll: Tensor
    dissimilarity: Tensor
    reconstruction: Tensor


class ImageScores(NamedTuple):
    """Scores of a batch; the parts are in standard deviations above held-out normal images.

    Attributes:
        score: the chosen image score, ``(B,)``.
        flow_score: likelihood part, ``(B,)``.
        recon_score: reconstruction part, ``(B,)``.
        head_score: part of the synthetic-anomaly head, ``(B,)``; None without a head.
        percentile: rank of ``score`` among held-out normals, in [0, 100], ``(B,)``.
        flagged: whether ``score`` exceeds the threshold, ``(B,)`` bool.
        anomaly_map: fused map on the image's pixels, in standard deviations above the pixels of
            held-out normal images, ``(B, 1, H, W)``.
        maps: the standardised map of each part, ``(B, 1, H, W)``.
        reconstruction: ``(B, C, H, W)`` in the units of the input image.
    """

    score: Tensor
    flow_score: Tensor
    recon_score: Tensor
    head_score: Tensor | None
    percentile: Tensor
    flagged: Tensor
    anomaly_map: Tensor
    maps: dict[str, Tensor]
    reconstruction: Tensor


class AnomalyScorer(nn.Module):
    """Wraps input normalisation, the network and its calibration.

    The module returns one tensor, the anomaly map, so that it can be verified, exported and
    served; `score_image` returns the image scores with their parts. All that calibration learns
    lives in registered buffers, so that the state dict carries it. The score of an image does not
    depend on the batch it comes in.

    Args:
        network: the AE-Flow network.
        score: one of `SCORES`; ``fused`` combines the standardised parts, ``paper`` is
            ``beta * S_flow + (1 - beta) * S_recon`` of AE-FLOW (Zhao et al., ICLR 2023) with the
            density taken in logs and per dimension.
        beta: weight of the flow against the reconstruction, in [0, 1].
        head_weight: weight of the head against flow and reconstruction in the fused score, in
            [0, 1]; without a head it has no effect.
        map_head_weight: likewise in the fused map, where the head resolves finer than the flow.
        flow_pool: share of the least likely positions whose mean is the flow's image score, in
            (0, 1]: small for focal disease, 1 for diffuse disease.
        head_pool: likewise for the head.
        smoothing: standard deviation of the Gaussian that smooths the residual, in pixels.

    Raises:
        ArgumentError: for an unknown score, or weights and shares outside their range.
    """

    blur_kernel: Tensor
    input_mean: Tensor
    input_std: Tensor
    map_mean: Tensor
    map_scale: Tensor
    part_mean: Tensor
    part_scale: Tensor
    score_mean: Tensor
    score_scale: Tensor
    quantiles: Tensor
    threshold: Tensor
    pixel_threshold: Tensor
    pixel_fpr: Tensor
    pixel_levels: Tensor
    n_normal: Tensor
    target_fpr: Tensor

    def __init__(
        self,
        network: AEFlow,
        score: str = "fused",
        beta: float = 0.9,
        head_weight: float = 0.5,
        map_head_weight: float = 0.8,
        flow_pool: float = 0.5,
        head_pool: float = 0.1,
        smoothing: float = 2.0,
    ) -> None:
        super().__init__()
        weights = {"beta": beta, "head_weight": head_weight, "map_head_weight": map_head_weight}
        _check_settings(network, score, weights, {"flow_pool": flow_pool, "head_pool": head_pool})
        self.network = network
        self.settings: dict[str, Any] = {
            "score": score,
            "beta": float(beta),
            "head_weight": float(head_weight),
            "map_head_weight": float(map_head_weight),
            "flow_pool": float(flow_pool),
            "head_pool": float(head_pool),
            "smoothing": float(smoothing),
        }
        # Computed once: MONAI's GaussianFilter reads its sigma back at every call, which makes the
        # host wait for the device and cannot be exported.
        kernel = gaussian_1d(torch.tensor(float(smoothing)))
        self.register_buffer("blur_kernel", kernel, persistent=False)
        channels = int(network.architecture["in_channels"])
        n_maps = len(self.map_names)
        self.register_buffer("input_mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("input_std", torch.ones(1, channels, 1, 1))
        self.register_buffer("map_mean", torch.zeros(n_maps))
        self.register_buffer("map_scale", torch.ones(n_maps))
        self.register_buffer("part_mean", torch.zeros(3))
        self.register_buffer("part_scale", torch.ones(3))
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_scale", torch.ones(()))
        self.register_buffer("quantiles", torch.linspace(0.0, 1.0, N_QUANTILES))
        self.register_buffer("threshold", torch.tensor(float("inf")))
        self.register_buffer("pixel_threshold", torch.tensor(float("inf")))
        self.register_buffer("pixel_fpr", torch.zeros(()))
        self.register_buffer("pixel_levels", torch.full((N_LEVELS,), float("inf")))
        self.register_buffer("n_normal", torch.zeros((), dtype=torch.long))
        self.register_buffer("target_fpr", torch.zeros(()))

    @property
    def map_names(self) -> tuple[str, ...]:
        """Names of the part maps: one per flow stride, the reconstruction, the head if any."""
        flows = tuple(f"flow{stride}" for stride in self.network.flow_strides)
        return flows + (("recon", "head") if self.network.head is not None else ("recon",))

    @property
    def calibrated(self) -> bool:
        """Whether the calibration on held-out normals has been done."""
        return int(self.n_normal) > 0

    def normalize(self, image: Tensor) -> Tensor:
        """Brings an image ``(B, C, H, W)`` in [0, 1] to zero mean and unit variance."""
        return (image - self.input_mean) / self.input_std

    def set_input_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Sets the per-channel mean and standard deviation ``(C,)`` of the training images."""
        self.input_mean.copy_(mean.reshape(self.input_mean.shape))
        self.input_std.copy_(std.clamp_min(1e-6).reshape(self.input_std.shape))

    def forward(self, image: Tensor) -> Tensor:
        """Computes the anomaly map.

        Args:
            image: ``(B, C, H, W)`` in [0, 1].

        Returns:
            The fused anomaly map ``(B, 1, H, W)``, in standard deviations above the pixels of
            held-out normal images.
        """
        parts = self.parts(image)
        return self.fuse_maps(self.standardized_maps(parts, image.shape[-2:]))

    def parts(self, image: Tensor) -> Parts:
        """Computes the raw evidence of a batch ``(B, C, H, W)`` in [0, 1]."""
        normalized = self.normalize(image)
        return self.parts_of(self.network(normalized), normalized)

    def parts_of(self, output: AEFlowOutput, normalized: Tensor) -> Parts:
        """Turns a network output for the normalised image ``(B, C, H, W)`` into raw evidence."""
        prior, density = likelihoods(output)
        flows = self.map_names[: len(density)]
        maps = {name: -one.unsqueeze(1) for name, one in zip(flows, density, strict=True)}
        reconstruction = output.reconstruction.float()
        residual = (normalized.float() - reconstruction).abs().mean(dim=1, keepdim=True)
        maps["recon"] = separable_filtering(residual, [self.blur_kernel, self.blur_kernel])
        if output.head is not None:
            maps["head"] = output.head.float()
        sizes = [z[0].numel() for z in output.latents]
        means = [m.mean(dim=(1, 2)) * n / sum(sizes) for m, n in zip(prior, sizes, strict=True)]
        restored = reconstruction * self.input_std + self.input_mean
        return Parts(
            maps=maps,
            latent_nll=-torch.stack(means).sum(dim=0),
            dissimilarity=-_ssim(restored, normalized.float() * self.input_std + self.input_mean),
            reconstruction=restored,
        )

    def standardized_maps(self, parts: Parts, size: torch.Size) -> dict[str, Tensor]:
        """Standardises each part's map, see `compress`, and brings it to the image's ``(H, W)``."""
        standardized = {}
        for index, name in enumerate(self.map_names):
            value = compress((parts.maps[name] - self.map_mean[index]) / self.map_scale[index])
            standardized[name] = F.interpolate(
                value, size=(size[0], size[1]), mode="bilinear", align_corners=False
            )
        return standardized

    def fuse_maps(self, maps: dict[str, Tensor]) -> Tensor:
        """Combines standardised part maps into one map ``(B, 1, H, W)``."""
        flow = self._mean_flow_map(maps)
        return self._combine(flow, maps["recon"], maps.get("head"), "map_head_weight")

    def part_scores(self, parts: Parts, maps: dict[str, Tensor]) -> Tensor:
        """Image-level evidence before its standardisation.

        Args:
            parts: the raw evidence.
            maps: the standardised maps of the same batch.

        Returns:
            ``(B, 3)``: flow, reconstruction and head (zeros without a head).
        """
        if self.settings["score"] == "paper":
            flow = parts.latent_nll
        else:
            flow = top_mean(self._mean_flow_map(maps), self.settings["flow_pool"])
        head = maps.get("head")
        pooled = (
            torch.zeros_like(flow) if head is None else top_mean(head, self.settings["head_pool"])
        )
        return torch.stack([flow, parts.dissimilarity, pooled], dim=1)

    def raw_score(self, part_scores: Tensor) -> Tensor:
        """The chosen score ``(B,)`` of image-level parts ``(B, 3)``, before its standardisation."""
        kind, beta = self.settings["score"], self.settings["beta"]
        if kind == "paper":
            paper: Tensor = beta * part_scores[:, 0] + (1 - beta) * part_scores[:, 1]
            return paper
        flow, recon, head = self.standardize_parts(part_scores).unbind(dim=1)
        single = {"flow": flow, "recon": recon, "head": head}
        if kind in single:
            return single[kind]
        present = head if self.network.head is not None else None
        return self._combine(flow, recon, present, "head_weight")

    def standardize_parts(self, part_scores: Tensor) -> Tensor:
        """Image-level parts ``(B, 3)`` in standard deviations above held-out normal images.

        Large values are compressed, see `compress`.
        """
        return compress((part_scores - self.part_mean) / self.part_scale)

    def score_image(self, image: Tensor) -> ImageScores:
        """Scores a batch of images.

        Args:
            image: ``(B, C, H, W)`` in [0, 1].

        Returns:
            The scores with their parts and maps.
        """
        parts = self.parts(image)
        maps = self.standardized_maps(parts, image.shape[-2:])
        raw_parts = self.part_scores(parts, maps)
        score = (self.raw_score(raw_parts) - self.score_mean) / self.score_scale
        flow, recon, head = self.standardize_parts(raw_parts).unbind(dim=1)
        return ImageScores(
            score=score,
            flow_score=flow,
            recon_score=recon,
            head_score=head if self.network.head is not None else None,
            percentile=self.percentile(score),
            flagged=score > self.threshold,
            anomaly_map=self.fuse_maps(maps),
            maps=maps,
            reconstruction=parts.reconstruction,
        )

    def percentile(self, score: Tensor) -> Tensor:
        """Rank of scores ``(B,)`` among held-out normal images, in [0, 100]."""
        rank = torch.searchsorted(self.quantiles, score.contiguous(), right=True)
        return rank.to(score.dtype) * (100.0 / N_QUANTILES)

    def _mean_flow_map(self, maps: dict[str, Tensor]) -> Tensor:
        flows = [maps[name] for name in self.map_names if name.startswith("flow")]
        return torch.stack(flows).mean(dim=0)

    def _combine(self, flow: Tensor, recon: Tensor, head: Tensor | None, head_key: str) -> Tensor:
        beta, weight = self.settings["beta"], self.settings[head_key]
        unsupervised: Tensor = beta * flow + (1 - beta) * recon
        return unsupervised if head is None else (1 - weight) * unsupervised + weight * head


def compress(deviations: Tensor) -> Tensor:
    """Keeps ordinary standardised values and compresses extreme ones, in the same order.

    The likelihood of a strange image can lie thousands of standard deviations off; without this
    one position or one part would outweigh all others.

    Args:
        deviations: any shape, in standard deviations.

    Returns:
        ``k asinh(value / k)`` with k = `LINEAR_RANGE`: about the value itself up to k, then
        growing with its logarithm.
    """
    return LINEAR_RANGE * torch.asinh(deviations / LINEAR_RANGE)


def top_mean(value: Tensor, share: float) -> Tensor:
    """Mean of the highest share of positions.

    Args:
        value: a map ``(B, 1, H, W)``.
        share: in (0, 1].

    Returns:
        ``(B,)``.
    """
    flat = value.flatten(1)
    if share >= 1.0:
        return flat.mean(dim=1)
    count = max(1, round(share * int(flat.shape[1])))  # a traced size is a tensor
    return flat.topk(count, dim=1).values.mean(dim=1)


def _ssim(reconstruction: Tensor, image: Tensor) -> Tensor:
    ssim, _ = compute_ssim_and_cs(
        y_pred=reconstruction.clamp(0.0, 1.0),
        y=image,
        spatial_dims=2,
        kernel_size=(11, 11),
        kernel_sigma=(1.5, 1.5),
        data_range=1.0,
    )
    return ssim.flatten(1).mean(dim=1)


def _check_settings(
    network: AEFlow, score: str, weights: dict[str, float], pools: dict[str, float]
) -> None:
    choose("score", score, {name: name for name in SCORES})
    if score == "head" and network.head is None:
        raise ArgumentError(
            "score: 'head' needs a network with a detection head; pre-train one or choose "
            "'fused', 'paper', 'flow' or 'recon'."
        )
    for name, value in weights.items():
        if not 0.0 <= value <= 1.0:
            raise ArgumentError(f"{name}: expected a weight in [0, 1], got {value}.")
    for name, value in pools.items():
        if not 0.0 < value <= 1.0:
            raise ArgumentError(f"{name}: expected a share in (0, 1], got {value}.")

"""The scorer as other programs run it: one image in, a few plain tensors out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from .errors import ArgumentError
from .scorer import AnomalyScorer
from .spatial import SIDES

OUTPUTS = ("anomaly_map", "score", "percentile", "flagged")
"""What `ExportedScorer` returns, in this order."""


class ExportedScorer(AnomalyScorer):
    """A calibrated scorer in a form that can be traced and exported.

    Everything that a decision needs travels with it: input normalisation, network, map, score,
    percentile and threshold. Its state dict has the keys of the scorer's. The batch size is free;
    the size is fixed, since the number of positions that a score pools is fixed with it.

    Args:
        scorer: the calibrated scorer; it is copied and stays as it is.
        image_size: of the images, in pixels: (H, W), (L,) of signals, (D, H, W) of volumes.

    Raises:
        ArgumentError: when the scorer has not been calibrated or cannot be exported, or for a size
            of another number of sides than the images have.
    """

    def __init__(self, scorer: AnomalyScorer, image_size: Sequence[int]) -> None:
        super().__init__(copy.deepcopy(scorer.detector), scorer.fusion, amp=False)
        if not scorer.calibrated:
            raise ArgumentError(
                "scorer: expected a calibrated scorer; calibrate it before exporting."
            )
        if not scorer.detector.exportable:
            raise ArgumentError(
                f"scorer: detector {scorer.detector.name!r} searches at test time, which no export "
                "can hold; serve the model file itself."
            )
        dims = scorer.detector.spatial_dims
        if len(image_size) != dims:
            raise ArgumentError(
                f"image_size: expected {SIDES[dims]}, got {tuple(image_size)}; "
                "give the size that the model was trained at."
            )
        self.image_size = [int(side) for side in image_size]
        self.load_state_dict(scorer.state_dict())
        _keep_out_of_state(self)
        self.requires_grad_(False).eval().to(scorer.calibration.threshold.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves what is kept out of the state dict too, which PyTorch leaves where it is."""
        for part in self.modules():
            for name, value in list(vars(part).items()):
                if isinstance(value, Tensor):
                    setattr(part, name, fn(value))
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what `forward` takes: the image, and what the detector needs beside it."""
        return ("image", *self.detector.needs)

    def forward(self, image: Tensor, *context: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Scores a batch.

        Args:
            image: float32 ``(B, C, *s)`` in [0, 1], s the ``image_size``.
            *context: what the detector needs, in the order of `inputs`.

        Returns:
            The `OUTPUTS`: the map ``(B, 1, *s)`` and the score ``(B,)``, both in standard
            deviations above held-out normal images, the percentile ``(B,)`` in [0, 100] and
            whether the score exceeds the threshold, ``(B,)`` bool.

        Raises:
            ArgumentError: when the image has another size.
        """
        image = _of_size(image, self.image_size)
        needed = dict(zip(self.detector.needs, context, strict=True))
        scores = self.score_image(image, needed)
        return scores.anomaly_map, scores.score, scores.percentile, scores.flagged

    def percentile(self, score: Tensor) -> Tensor:
        """Counts where the calibration searches: ONNX has no search in sorted values."""
        quantiles = self.calibration.quantiles
        count = quantiles.numel()
        rank = count - (quantiles > score.unsqueeze(1)).sum(dim=1)
        return rank.to(score.dtype) * (100.0 / count)


def _keep_out_of_state(module: nn.Module) -> None:
    """TorchScript forgets that a buffer is not persistent; as an attribute it stays out.

    The state dict then agrees with the model file's.
    """
    for part in module.modules():
        for name in part._non_persistent_buffers_set.copy():
            value = getattr(part, name)
            delattr(part, name)
            setattr(part, name, value)


@torch.jit.script_if_tracing  # type: ignore[untyped-decorator]
def _of_size(image: Tensor, size: list[int]) -> Tensor:
    # Scripted, because a trace keeps no check: with another size it would pool a wrong share.
    if list(image.shape[2:]) != size:
        raise ArgumentError(
            "image: expected shape (B, C, "
            + str(size)[1:-1]
            + "), got "
            + str(image.shape)
            + "; resize the images, or export the model again at their size."
        )
    return image

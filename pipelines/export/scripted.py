"""A model's scorer as ``python -m monai.bundle ckpt_export`` takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from networks.exported import ExportedScorer
from networks.scorer import AnomalyScorer
from pipelines.data import seen_size
from pipelines.export.formats import example_for, traced
from pipelines.scoring import PatchScorer, load_scorer, packed, unpacked


def scriptable_scorer(
    model: Mapping[str, Any],
    device: torch.device | str = "cpu",
    target_fpr: float | None = None,
) -> AnomalyScorer:
    """A `ScriptableScorer`, or a `ScriptablePatchScorer` of a model that sees patches."""
    patches = model["preprocessing"].get("patch_size")
    make = ScriptablePatchScorer if patches else ScriptableScorer
    return make(model, device, target_fpr)


class ScriptableScorer(AnomalyScorer):
    """A model's scorer that MONAI can load and script.

    The script takes what the bundle's ``pre_transforms`` give, one tensor (see `packed`), and
    returns `networks.exported.OUTPUTS`.

    Args:
        model: the content of the file, see `read_model`.
        device: where the scorer is wanted.
        target_fpr: the false-positive rate of the threshold; None for the model's own.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        device: torch.device | str = "cpu",
        target_fpr: float | None = None,
    ) -> None:
        scorer = load_scorer(model, device, target_fpr)
        preprocessing = model["preprocessing"]
        seen = {n: preprocessing[n] for n in ("patch_size", "overlap") if n in preprocessing}
        super().__init__(scorer.detector, scorer.fusion, scorer.amp, **seen)
        self.calibration = scorer.calibration
        self.image_size = seen_size(model)
        self.eval()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Takes a state dict, or the content of a model file, which is what MONAI hands on."""
        return super().load_state_dict(state_dict.get("model", state_dict), strict, assign)

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` compiles instead."""
        scorer = _OneTensor(self, self.image_size)
        image, *context = example_for(scorer)
        named = dict(zip(scorer.detector.needs, context, strict=True))
        return _Scripted(traced(scorer, (packed(image, named, scorer.detector),)))


class ScriptablePatchScorer(ScriptableScorer, PatchScorer):
    """Of a model that sees patches of volumes, which the script takes one by one."""


class _OneTensor(ExportedScorer):
    def forward(self, image: Tensor, *_: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        image, context = unpacked(image, self.detector)
        return super().forward(image, *context.values())


class _Scripted(nn.Module):
    """A trace cannot be scripted, a module that calls one can."""

    def __init__(self, scorer: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor, Tensor] = self.scorer(image)
        return found

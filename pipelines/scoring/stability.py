"""How scores and decisions move where an image is changed as no radiologist would mind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from torch.utils.data import DataLoader

from networks import AnomalyScorer, part_column
from pipelines.common import track
from transforms.mild import Change, mild_changes_of

MOST_IMAGES = 128
"""Held-out normal images that are looked at, evenly spaced."""

DIGITS = 4


@dataclass(frozen=True)
class Stability:
    """What a change does to normal images.

    Attributes:
        change: what was done to them; "none" for nothing.
        flagged: share of the images that are flagged then, in [0, 1].
        changed: share of the images whose decision is another one.
        shift: mean change of the score, in standard deviations.
        parts: mean change of each part.
    """

    change: str
    flagged: float
    changed: float
    shift: float
    parts: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a table, the parts under `part_column`."""
        told = {"flagged": self.flagged, "changed": self.changed, "score": self.shift}
        told |= {part_column(name): value for name, value in self.parts.items()}
        return {"change": self.change} | {
            name: round(value, DIGITS) for name, value in told.items()
        }


def evenly_spaced(count: int, most: int) -> list[int]:
    """Indices of at most so many of the items."""
    return torch.linspace(0, count - 1, min(count, most)).long().tolist()


def looked_at(
    loader: DataLoader[dict[str, Tensor]], most: int, size: int | None = None
) -> list[list[int]]:
    """Batches of at most so many of the images, evenly spaced.

    Of slices that are seen in their volume, whole stretches; one at least.

    Args:
        loader: as for the calibration.
        most: images.
        size: of a batch; None for the loader's.
    """
    if loader.batch_size is None:
        found: list[list[int]] = list(loader.batch_sampler)  # type: ignore[arg-type]
        count = max(1, most // max(map(len, found)))
        return [found[number] for number in evenly_spaced(len(found), count)]
    dataset: Any = loader.dataset
    numbers, size = evenly_spaced(len(dataset), most), size or loader.batch_size
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def measure_stability(
    scorer: AnomalyScorer,
    loader: DataLoader[dict[str, Tensor]],
    device: torch.device | str,
    strength: float = 1.0,
) -> list[Stability]:
    """Scores held-out normal images as they are and changed.

    Args:
        scorer: the calibrated scorer.
        loader: the images, as for the calibration.
        device: where to compute.
        strength: of the changes, see `mild_changes`.
    """
    dataset: Any = loader.dataset
    batches = [dataset.__getitems__(indices) for indices in looked_at(loader, MOST_IMAGES)]
    scorer = scorer.to(device).eval()
    changes: dict[str, Change] = {"none": torch.clone} | mild_changes_of(dataset.images, strength)
    found: dict[str, dict[str, Tensor]] = {}
    for name, change in track(changes.items(), "Stability", len(changes), "changes"):
        scored: list[dict[str, Tensor]] = []
        for batch in batches:
            context = {need: batch[need].to(device) for need in scorer.detector.needs}
            with torch.no_grad():
                one = scorer.score_image(change(batch[Keys.IMAGE].to(device)), context)
            scored.append({"score": one.score, "flagged": one.flagged, **one.parts})
        found[name] = {key: torch.cat([one[key] for one in scored]).float() for key in scored[0]}
    plain = found["none"]
    return [
        Stability(
            change=name,
            flagged=float(values["flagged"].mean()),
            changed=float((values["flagged"] != plain["flagged"]).float().mean()),
            shift=float((values["score"] - plain["score"]).mean()),
            parts={part: float((values[part] - plain[part]).mean()) for part in scorer.parts},
        )
        for name, values in found.items()
    ]

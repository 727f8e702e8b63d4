"""A few telling slices, kept while a whole test set streams by."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.data import SignalSample
from pipelines.outputs.traces import stretch
from transforms.slices import to_canvas

if TYPE_CHECKING:
    from pipelines.scoring import ScoredCase

Kind = Literal["detected", "missed", "false alarm", "scored", "held-out normal"]
KINDS: tuple[Kind, ...] = ("detected", "missed", "false alarm", "scored")
"""Those that cases which are scored are sorted into."""
SIGNS: dict[Kind, int] = {"detected": 1, "missed": -1, "false alarm": 1, "scored": 1}
"""Whether high or low scores are the telling ones."""


@dataclass(frozen=True)
class Example:
    """One slice as a panel shows it.

    Attributes:
        kind: why it is shown.
        case: name of the case.
        index: number of the slice; 0 for a picture.
        score: the image score, in standard deviations above normal images.
        image: first channel on the network's canvas, ``(H, W)`` in [0, 1]; of a signal see
            `pipelines.outputs.traces.stretch`, or a window alone, ``(L,)`` in [0, 1].
        reconstruction: likewise; None without one.
        maps: the fused and the part maps, ``(H, W)``, in standard deviations.
        mask: lesion mask on the canvas, ``(H, W)`` bool; None when unknown.
        time: of a signal, in seconds or as dates, ``(T,)``; None for anything else.
        window: of a signal, the window's first sample in ``time`` and the one after its last.
    """

    kind: Kind
    case: str
    index: int
    score: float
    image: NDArray[np.float32]
    reconstruction: NDArray[np.float32] | None
    maps: dict[str, NDArray[np.float32]]
    mask: NDArray[np.bool_] | None
    time: NDArray[Any] | None = None
    window: tuple[int, int] | None = None

    @property
    def of_signal(self) -> bool:
        """Whether it shows a signal."""
        return self.maps["anomaly_map"].ndim == 1


def candidates(scored: ScoredCase) -> list[Example]:
    """The most telling slice of each kind in one case, where there is any.

    Detected: anomalous and flagged, the highest score. Missed: anomalous and not flagged, the
    lowest score. False alarm: normal and flagged, the highest score. Scored: of unknown label, the
    highest score.
    """
    labels = scored.sample.labels.numpy()
    scores, flagged = scored.scores["score"], scored.flagged
    unknown = np.full(len(labels), scored.sample.case.label is None and bool((labels < 0).all()))
    of_kind: dict[Kind, NDArray[np.bool_]] = {
        "detected": (labels == 1) & flagged,
        "missed": (labels == 1) & ~flagged,
        "false alarm": (labels == 0) & flagged,
        "scored": unknown,
    }
    found = []
    for kind, chosen in of_kind.items():
        where = np.flatnonzero(chosen)
        if where.size:
            telling = int(where[np.argmax(SIGNS[kind] * scores[where])])
            found.append(example_of(kind, scored, telling))
    return found


@dataclass
class ExampleKeeper:
    """Keeps the most telling examples of each kind; memory does not grow with the cases.

    Attributes:
        per_kind: how many of each kind are kept.
    """

    per_kind: int = 4
    _heaps: dict[Kind, list[tuple[float, str, Example]]] = field(
        default_factory=lambda: {kind: [] for kind in KINDS}
    )

    def offer(self, example: Example) -> bool:
        """Considers an example; returns whether it is among the most telling ones so far."""
        heap, rank = self._heaps[example.kind], SIGNS[example.kind] * example.score
        if len(heap) < self.per_kind:
            heapq.heappush(heap, (rank, example.case, example))
            return True
        if rank <= heap[0][0]:
            return False
        heapq.heapreplace(heap, (rank, example.case, example))
        return True

    def examples(self) -> list[Example]:
        """The kept slices, the most telling of each kind first."""
        return [
            entry[2]
            for kind in KINDS
            for entry in sorted(self._heaps[kind], key=lambda kept: kept[:2], reverse=True)
        ]


def example_of(kind: Kind, scored: ScoredCase, position: int) -> Example:
    """A slice of a case, by its position among those that were scored."""
    sample = scored.sample
    show = stretch if isinstance(sample, SignalSample) else _canvas
    return Example(
        kind=kind,
        case=sample.case.name,
        index=int(sample.indices[position]),
        score=float(scored.scores["score"][position]),
        **show(scored, position),
    )


def _canvas(scored: ScoredCase, position: int) -> dict[str, Any]:
    """What a panel shows of a slice, by the names of an `Example`."""
    restored = scored.reconstruction
    maps = {name.removeprefix("map_"): v[position] for name, v in scored.canvas_maps.items()}
    return {
        "image": scored.sample.images[position, 0].numpy().copy(),
        "reconstruction": None if restored is None else restored[position, 0].numpy().copy(),
        "maps": {name: value.numpy().copy() for name, value in maps.items()},
        "mask": _canvas_mask(scored, position),
    }


def _canvas_mask(scored: ScoredCase, position: int) -> NDArray[np.bool_] | None:
    sample = scored.sample
    if sample.masks is None:
        return None
    mask = sample.masks[position][None, None]
    return to_canvas(mask, sample.geometry, "nearest")[0, 0].numpy().copy()

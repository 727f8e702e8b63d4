"""The scores of one image beside its label: what an evaluation judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from networks import part_column

DIGITS = 6
"""Of a number in ``scores.csv``."""


@dataclass(frozen=True)
class ScoreRow:
    """One row of ``scores.csv``.

    Attributes:
        case: name of the case.
        patient: whose it is; stays out of what is written.
        level: a picture, a slice of a volume, or a volume as a whole; a window of a signal, or a
            signal as a whole.
        slice: number of the slice or the window; 0 for a picture, None for a whole.
        label: 1 anomalous, 0 normal, None unknown.
        score: in standard deviations above held-out normal images.
        parts: likewise, per part of the detector.
        percentile: rank of the score among held-out normals, in [0, 100]; None without any.
        p_value: chance that a normal image scores so high, at most; None without any.
        flagged: whether the score exceeds the threshold; None without one.
        score_std: standard deviation of the scores of an ensemble's members; None without any.
        in_scope: whether the image is of the kind that the model was made for; None if unknown.
        out_of_scope: why it is not; "" if it is.
        baselines: the trivial scores.
        time: when a window begins, as its file tells the time; None for anything else.
    """

    case: str
    patient: str
    level: Literal["image", "slice", "volume", "window", "signal"]
    slice: int | None
    label: int | None
    score: float
    parts: Mapping[str, float] = field(default_factory=dict)
    percentile: float | None = None
    p_value: float | None = None
    flagged: bool | None = None
    score_std: float | None = None
    in_scope: bool | None = None
    out_of_scope: str = ""
    baselines: Mapping[str, float] = field(default_factory=dict)
    time: float | str | None = None

    @property
    def is_part(self) -> bool:
        """Whether it is a slice or a window of a larger case."""
        return self.level in ("slice", "window")

    @property
    def is_whole(self) -> bool:
        """Whether it is a volume or a signal, of which there are slices or windows too."""
        return self.level in ("volume", "signal")

    def cells(self) -> dict[str, Any]:
        """The row as it is written: parts under their columns, empty where nothing is known."""
        known: dict[str, Any] = {
            "case": self.case,
            "level": self.level,
            "slice": self.slice,
            **({} if self.time is None else {"time": self.time}),
            "label": self.label,
            "score": self.score,
            **{part_column(name): value for name, value in self.parts.items()},
            "percentile": self.percentile,
            "p_value": self.p_value,
            "flagged": None if self.flagged is None else int(self.flagged),
            **({} if self.score_std is None else {"score_std": self.score_std}),
            "in_scope": None if self.in_scope is None else int(self.in_scope),
            "out_of_scope": self.out_of_scope,
            **self.baselines,
        }
        return {name: _cell(value) for name, value in known.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return "" if value is None else value

"""What a data layout finds: cases, their patients, files and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SplitName = Literal["train", "calibration", "test"]

LONGEST_NAME = 200
"""Bytes of a case's name, which leave room for what the names of its results add."""


@dataclass(frozen=True)
class Case:
    """One image or one volume (with all its modalities) of one patient.

    Attributes:
        name: unique within the cohort, usable as a file name, free of patient data beyond the
            pseudonym that the data set itself uses.
        patient: the unit of splitting and of the bootstrap.
        images: the files; one per modality, or a single file holding every channel.
        label: 0 normal, 1 anomalous, None when unknown or, for volumes with a mask, decided
            slice by slice.
        mask: file of the lesion mask (non-zero is lesion) on the grid of the images, if any; of a
            signal the file that marks its anomalies.
        split: the split that the layout or the user fixed, if any.
        channels: for files holding several channels, the indices to use; None takes all.
        series_uid: for a folder that holds several DICOM series, the one that is meant.
        region: file of a mask of where synthetic anomalies may lie, if the user has drawn one.
        span: the samples of a signal that are the case, from the first to before the second; None
            for all.
    """

    name: str
    patient: str
    images: tuple[Path, ...]
    label: int | None = None
    mask: Path | None = None
    split: SplitName | None = None
    channels: tuple[int, ...] | None = None
    series_uid: str | None = None
    region: Path | None = None
    span: tuple[int, int] | None = None


def name_problem(name: str) -> str:
    """Why a name is too long for the files that are called after it; "" if it is not."""
    size = len(name.encode())
    if size <= LONGEST_NAME:
        return ""
    return f"its name is too long ({size} bytes, at most {LONGEST_NAME}). Rename it."


@dataclass(frozen=True)
class FailedCase:
    """A case that could not be used.

    Attributes:
        case: which one.
        reason: what is wrong with it and what to do, in words.
    """

    case: Case
    reason: str


@dataclass(frozen=True)
class Cohort:
    """The cases of one data set as a layout reads them.

    Attributes:
        layout: name of the layout.
        root: the folder that was read.
        cases: all cases, sorted by name.
        modalities: names of the channels, e.g. ``("flair",)`` or ``("image",)``.
        volumetric: True when the files are volumes to be sliced, or signals to be cut into windows.
        reason: one sentence on why the layout was recognised.
        notes: warnings that results on these data must carry.
        signals: True when the files are signals.
    """

    layout: str
    root: Path
    cases: tuple[Case, ...]
    modalities: tuple[str, ...]
    volumetric: bool
    reason: str = ""
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    signals: bool = False

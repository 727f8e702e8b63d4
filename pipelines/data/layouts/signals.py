"""Layout ``signals``: recordings as CSV, NumPy, EDF or WFDB files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.common import counted
from pipelines.data.cases import Case, Cohort, SplitName
from pipelines.data.layouts.base import Layout, Modalities, make_cohort, register
from pipelines.data.layouts.case_list import names_cases
from pipelines.data.layouts.files import shortened, subfolders
from pipelines.data.layouts.patients import patients_by_pattern
from pipelines.data.layouts.walk import find_signals
from transforms.signals import channel_names, is_signal, labels_file, signal_stem

_CLASSES: tuple[tuple[str, SplitName | None, Literal[0, 1]], ...] = (
    ("normal", None, 0),
    ("anomalous", None, 1),
    ("train/normal", "train", 0),
    ("calibration/normal", "calibration", 0),
    ("test/normal", "test", 0),
    ("test/anomalous", "test", 1),
)
_LOOKED_AT = 50
"""Files of a folder that tell whether its tables are signals."""


@register("signals")
@dataclass(frozen=True)
class SignalsLayout(Layout):
    """Signals in ``normal`` and ``anomalous``, or in folders that name split and class too.

    Without such folders every file counts: its anomalies are where its labels say, and all of it
    is normal without any. The patient is found by `patient_pattern` in the file's name; else it is
    the first folder below that of the class, or the file's name.

    Attributes:
        patient_pattern: regular expression whose first group (or whole match) in the file's name
            without suffix is the patient.
    """

    expects = (
        "CSV, NumPy (.npy, .npz), EDF or WFDB (.hea) files in normal/ and anomalous/, or in "
        "train/normal, test/normal and test/anomalous, also in one folder per patient; or files "
        "with a column label or a <name>.labels.csv of their own; or one long recording"
    )
    patient_pattern: str | None = None

    def recognise(self, root: Path) -> str | None:
        """Recognise signals in folders of classes; or in the folder itself, without images."""
        if root.is_file():
            single = is_signal(root) and not names_cases(root)
            return f"{root.name} is a signal" if single else None
        if (root / "cases.csv").is_file():
            return None
        for name, _, _ in _CLASSES:
            found = find_signals(root / name)
            if found:
                return f"{name} holds signals, such as {found[0].name}"
        found = [] if subfolders(root / "train") else find_signals(root)
        if not found or any(names_cases(path) for path in found[:_LOOKED_AT]):
            return None
        return f"it holds signals, such as {found[0].name}"

    def read(self, root: Path, modalities: Modalities) -> Cohort:
        """Read the files' names, patients and labels; of the first one its channels too.

        Args:
            root: the folder, or one recording.
            modalities: the channels wanted; None takes those of the first file.

        Raises:
            InputError: if there is no file, or one with labels cannot be read.
        """
        found = [
            (path, root / name, split, label)
            for name, split, label in _CLASSES
            for path in find_signals(root / name)
        ]
        notes = []
        if not found:
            paths = [root] if root.is_file() else find_signals(root)
            found = [(path, root, None, 0) for path in paths]
        patients = self._patients([(path, below) for path, below, _, _ in found])
        cases = []
        for (path, _, split, label), patient in zip(found, patients, strict=True):
            mask = labels_file(path)
            known = label if mask is None or label else None
            cases.append(
                Case(signal_stem(path), patient, (path,), label=known, mask=mask, split=split)
            )
        bare = [case.name for case in cases if case.mask is None]
        if found and found[0][1] == root and bare:
            notes.append(
                f"{counted(len(bare), 'signal')} without labels, taken for normal throughout: "
                f"{shortened(bare)}."
            )
        channels = modalities or (channel_names(found[0][0]) if found else ("value",))
        return make_cohort(self.name, root, cases, channels, True, notes, signals=True)

    def _patients(self, found: list[tuple[Path, Path]]) -> list[str]:
        stems = [signal_stem(path) for path, _ in found]
        if self.patient_pattern is not None:
            by_stem = patients_by_pattern(self.patient_pattern, stems)
            return [by_stem[stem] for stem in stems]
        return [
            path.relative_to(below).parts[0] if path.parent != below and path != below else stem
            for (path, below), stem in zip(found, stems, strict=True)
        ]

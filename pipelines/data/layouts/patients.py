"""From a file's stem to the patient."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipelines.common import counted
from pipelines.data.layouts.files import shortened
from transforms.errors import InputError

_KERMANY = (
    re.compile(r"^(?:NORMAL\d*-)?(IM-\d+)-\d+(?:-\d+)*$"),
    re.compile(r"^(person\d+)_(?:bacteria|virus)_\d+$"),
    re.compile(r"^(?:NORMAL|CNV|DME|DRUSEN|BACTERIA|VIRUS)-(\d+)-\d+$"),
)
_BRATS_TIME_POINT = (
    re.compile(r"^(BraTS-[A-Za-z0-9]+-\d+)-\d+$", re.IGNORECASE),
    re.compile(r"^(Brats1[789]_.+)_\d+$", re.IGNORECASE),
)


def kermany_patient(stem: str) -> str | None:
    """Return the patient of a file of the Kermany sets, None for a name of another kind.

    In the X-ray set the patient of a normal image is its IM number, with or without the prefix
    ``NORMAL2-``; that of a pneumonia image is ``person<number>``. OCT images, and X-rays of the
    releases that name them alike, carry the patient between class and running number, and one
    patient may occur in several classes.

    >>> kermany_patient("NORMAL2-IM-0115-0001"), kermany_patient("IM-0115-0001")
    ('IM-0115', 'IM-0115')
    >>> kermany_patient("person1000_bacteria_2931"), kermany_patient("CNV-1016042-1")
    ('person1000', '1016042')
    """
    return _first_group(_KERMANY, stem)


def brats_patient(case: str) -> str:
    """Return the patient of a BraTS case: its name without the number of the time point.

    >>> brats_patient("BraTS-GLI-00008-001"), brats_patient("Brats18_TCIA02_370_1")
    ('BraTS-GLI-00008', 'Brats18_TCIA02_370')
    >>> brats_patient("BraTS2021_00000"), brats_patient("BraTS20_Training_001")
    ('BraTS2021_00000', 'BraTS20_Training_001')
    """
    return _first_group(_BRATS_TIME_POINT, case) or case


def patients_by_pattern(pattern: str, stems: Iterable[str]) -> dict[str, str]:
    """Map each stem to the patient that a regular expression finds in it.

    The patient is the expression's first group or, without a group, the whole match.

    Raises:
        InputError: if the expression is no regular expression or misses in a stem.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"patient_pattern: expected a regular expression, found {pattern!r} ({error})."
        ) from error
    matches = {stem: expression.search(stem) for stem in stems}
    found = {
        stem: match.group(1 if expression.groups else 0) or ""
        for stem, match in matches.items()
        if match
    }
    missed = [stem for stem in matches if not found.get(stem)]
    if missed:
        raise InputError(
            f"patient_pattern: {pattern!r} finds no patient in "
            f"{counted(len(missed), 'file name')}: {shortened(missed, 3)}. Mend the pattern so "
            "that its first group is the patient."
        )
    return found


def _first_group(patterns: Iterable[re.Pattern[str]], text: str) -> str | None:
    return next((match.group(1) for pattern in patterns if (match := pattern.match(text))), None)

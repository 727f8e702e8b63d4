"""Damaged files are refused with a clear error or read; nothing else happens."""

from pathlib import Path

import pytest

from tests.fuzz.cases import damaged, outcome, seeds
from tests.fuzz.mutations import MUTATIONS

TIMES = 3
"""Of each mutation of each file; ``python -m tests.fuzz`` takes more."""


@pytest.mark.parametrize("name", seeds())
def test_sound_files_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(seeds()[name])
    assert outcome(tmp_path / name) == "read"


@pytest.mark.parametrize("name", seeds())
def test_damaged_files_are_refused_or_read(name: str, tmp_path: Path) -> None:
    wrong = {}
    for mutation in MUTATIONS:
        for number in range(TIMES):
            (tmp_path / name).write_bytes(damaged(name, mutation, number))
            found = outcome(tmp_path / name)
            if found not in ("read", "refused"):
                wrong[mutation, number] = found
    assert wrong == {}

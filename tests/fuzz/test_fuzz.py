"""What is damaged or wrong is refused with a clear error or accepted; nothing else happens."""

from pathlib import Path

import pytest

from tests.fuzz.images import outcome, seeds
from tests.fuzz.run import ROOMS, USUAL

TIMES = {"images": 3, "models": 4, "lines": 2}
"""Of each change of each thing; ``python -m tests.fuzz`` takes more."""

KINDS = [(room, *kind) for room in ROOMS for kind in ROOMS[room].kinds()]


@pytest.mark.parametrize("name", seeds())
def test_sound_files_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(seeds()[name])
    assert outcome(tmp_path / name) == "accepted"


@pytest.mark.parametrize(("room", "name", "mutation"), KINDS)
def test_wrong_things_are_refused_or_accepted(
    room: str, name: str, mutation: str, tmp_path: Path
) -> None:
    found = {n: ROOMS[room].check(name, mutation, n, tmp_path) for n in range(TIMES[room])}
    assert {n: said for n, said in found.items() if said not in USUAL} == {}

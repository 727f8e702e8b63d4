"""The rules of the house that import-linter does not know: rooms, doors and the size of files."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = sorted(
    stub.parent
    for folder in ("transforms", "pipelines")
    for stub in (ROOT / folder).glob("*/__init__.pyi")
)
PRODUCT = [
    path
    for folder in ("aeflow", "networks", "transforms", "pipelines", "bundles")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def name_of(folder: Path) -> str:
    return ".".join(folder.relative_to(ROOT).parts)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def past_doors(path: Path) -> list[str]:
    """Imports that reach into another room, or through the door of the file's own."""
    found = []
    for module in imported(path):
        for room in ROOMS:
            inside = room in path.parents
            if inside and module == name_of(room):
                found.append(f"{module}: its own door")
            if not inside and module.startswith(f"{name_of(room)}."):
                found.append(f"{module}: past the door")
    return found


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_are_entered_by_their_doors(path: Path) -> None:
    assert past_doors(path) == []


@pytest.mark.parametrize("room", ROOMS, ids=name_of)
def test_all_that_a_door_hands_on_is_there(room: Path) -> None:
    door = importlib.import_module(name_of(room))
    assert door.__all__
    for name in door.__all__:
        getattr(door, name)


def test_every_file_lies_in_a_room_and_is_short() -> None:
    loose = {path.name for path in (ROOT / "pipelines").glob("*.py")}
    assert loose == {"__init__.py"}
    assert [str(p) for p in PRODUCT if len(p.read_text().splitlines()) > 400] == []


def test_a_way_past_a_door_is_seen(tmp_path: Path) -> None:
    stray = tmp_path / "stray.py"
    stray.write_text("from pipelines.data.cases import Case\nfrom pipelines.data import Case\n")
    assert past_doors(stray) == ["pipelines.data.cases: past the door"]

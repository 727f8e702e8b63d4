"""The app's modules import each other in one direction; needs no label environment."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "bundles" / "monailabel"


def imports(app: Path) -> dict[str, set[str]]:
    """What each module of an app imports of the others, for type checking alone too."""
    files = {".".join(p.relative_to(app).with_suffix("").parts): p for p in app.rglob("*.py")}
    found: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[name].update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found[name].add(node.module)
                found[name].update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name: others & set(files) for name, others in found.items()}


def test_no_module_of_the_app_imports_itself_by_way_of_others() -> None:
    found = imports(APP)
    assert {"lib.app", "lib.gate", "lib.pages"} <= found["main"]
    TopologicalSorter(found).prepare()


@pytest.mark.parametrize("back", ["import main", "if 0:\n    from main import App"])
def test_a_circle_is_seen(back: str, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "main.py").write_text("from lib import gate\nclass App: ...\n")
    (tmp_path / "lib" / "gate.py").write_text("from lib.body import read\n")
    (tmp_path / "lib" / "body.py").write_text(f"{back}\n")
    with pytest.raises(CycleError) as caught:
        TopologicalSorter(imports(tmp_path)).prepare()
    assert set(caught.value.args[1]) == {"main", "lib.gate", "lib.body"}

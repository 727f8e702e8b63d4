"""The notebooks of the documentation: they run, and what they show is light and of no machine."""

import os
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
LARGEST = 120_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(path, as_version=4)
    place = tmp_path / "work"
    place.mkdir()
    where = {"metadata": {"path": str(place)}}
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources=where).execute()
    if os.environ.get("AEFLOW_NOTEBOOKS") == "write":
        for cell in book.cells:
            cell.metadata.clear()
        book.metadata["language_info"] = {"name": "python"}
        nbformat.write(book, path)
    assert shown(book) == shown(nbformat.read(path, as_version=4)), "AEFLOW_NOTEBOOKS=write"


def shown(book: Any) -> list[set[str]]:
    """The kinds of output of each cell."""
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    return [{kind for out in cell.outputs for kind in out.get("data", ["text"])} for cell in code]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_it_shows_is_light_and_of_no_machine(path: Path) -> None:
    text = path.read_text()
    assert len(text) < LARGEST
    for place in ("/tmp", "/home", "/root", "/work", str(Path.home())):
        assert place not in text

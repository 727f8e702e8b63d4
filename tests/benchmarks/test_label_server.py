import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import label_server
from benchmarks.label_server import ASKED, main, row


def test_a_row_tells_least_median_and_greatest() -> None:
    assert row("words", [3.0, 1.0, 2.5], "ms") == "| words | ms | 1 | 2.5 | 3 | 3 |"


def test_every_study_is_asked_for_every_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: list[tuple[str, str]] = []

    @contextmanager
    def serving(*args: object) -> Iterator[tuple[str, float, int]]:
        yield "http://server", 2.0, os.getpid()

    def ask(url: str, study: str, what: str) -> float:
        asked.append((study, what))
        return float(len(asked))

    monkeypatch.setattr(label_server, "serving", serving)
    monkeypatch.setattr(label_server, "ask", ask)
    listed = SimpleNamespace(json=lambda: {"objects": {"b": {}, "a": {}}})
    monkeypatch.setattr(label_server.requests, "get", lambda *args, **kwargs: listed)
    main(["--python", "python", "--studies", str(tmp_path), "--starts", "2", "--repeats", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| start to first answer | s | 2 | 2 | 2 | 2 |"
    assert lines[3].startswith("| first study | ms | 1 |") and lines[3].endswith("| 2 |")
    assert asked[0] == ("a", "words") and len(asked) == 2 * (1 + 3 * 2 * len(ASKED))
    for line, name in zip(lines[4:7], ASKED, strict=True):
        assert line.startswith(f"| {name} |") and line.endswith("| 12 |")

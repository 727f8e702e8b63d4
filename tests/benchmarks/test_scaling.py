import json
from pathlib import Path

import pytest

from benchmarks.scaling import PHASES, main


def test_one_and_two_processes_are_timed_in_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--encoder", "resnet18", "--image_size", "32", "--batch_size", "2", "--channels", "1"]
    brief = ["--rounds", "1", "--iterations", "1", "--decoder_width", "4", "--device", "cpu"]
    main([*small, *brief, "--processes", "2", "--output", str(tmp_path / "found.json")])
    rates = json.loads((tmp_path / "found.json").read_text())["images_per_second"]
    assert tuple(rates) == PHASES
    assert all(len(found[count]) == 1 for found in rates.values() for count in ("1", "2"))
    assert "| evaluation | 2 |" in capsys.readouterr().out

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.volumes import main, quarters, renamed
from pipelines.data.cases import Case
from pipelines.data.phantom.writer import ensure_phantom_dataset

WriteModel = Callable[..., dict[str, Any]]


def test_volumes_are_repeated_and_timed_by_stage(
    write_model: WriteModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(modalities=["flair"])
    data = ensure_phantom_dataset(tmp_path / "phantoms", patients=3, size=(32, 32, 8))
    folders = ["--dataset_dir", str(data), "--ckpt_dir", str(tmp_path / "models")]
    brief = ["--repeat", "5", "--rounds", "2", "--device", "cpu"]
    main([*folders, *brief, "--output", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["volumes"] == 5 and len(found["rounds"]) == 2
    for one in found["rounds"]:
        assert one["seconds"] > 0 and one["floor_seconds"] > 0 and len(one["resident"]) == 5
        assert {"reading", "scoring", "summing up", "writing maps"} < set(one["stages"])
        assert all(value > 0 for value in one["stages"].values())
    assert "| scoring |" in capsys.readouterr().out


def test_a_repeated_case_is_of_another_patient() -> None:
    known = [Case(name, f"p{name}", (Path(name),)) for name in "ab"]
    cases = [renamed(known, number) for number in range(5)]
    assert [case.name for case in cases] == ["a_0", "b_0", "a_1", "b_1", "a_2"]
    assert len({case.patient for case in cases}) == 5
    assert cases[2].images == cases[0].images == known[0].images


def test_memory_is_told_by_quarter() -> None:
    assert quarters([1.0, 2.0, 5.0, 3.0]) == [1.0, 2.0, 5.0, 3.0]
    assert quarters([1.0, 4.0]) == [1.0, 4.0]

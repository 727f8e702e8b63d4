import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import end_to_end, phases

ENGINE = """
class StageTrainer:
    def __init__(self, name):
        self.step = type("Step", (), {"stage": type("Stage", (), {"name": name})})
    def run(self):
        sum(range(300_000))
        StageEvaluator(self.step.stage.name).run()
class StageEvaluator(StageTrainer):
    def run(self):
        sum(range(100_000))
"""
BUNDLE = """
import sys
from pipelines.training.stages import StageTrainer
if "--break" in sys.argv:
    raise SystemExit("no such thing")
StageTrainer("pretrain").run()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that has two of the phases, and a bundle command of its own."""
    files = {"pipelines/training/stages.py": ENGINE, "monai/bundle.py": BUNDLE}
    for name, text in (files | {"monai/__init__.py": ""}).items():
        file = tmp_path / "old" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "old"


def test_a_checkout_is_timed_by_phase(checkout: Path) -> None:
    found = end_to_end.measure(checkout, ["--device", "cpu"])
    assert set(found) == {phases.REST, "pretrain", "pretrain, held out"}
    assert all(clock > 0 and processor >= 0 for clock, processor in found.values())
    with pytest.raises(RuntimeError, match=r"(?s)old: the training failed\..*no such thing"):
        end_to_end.measure(checkout, ["--break"])


def test_an_inner_phase_does_not_count_in_the_outer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 100, 10))
    monkeypatch.setattr(phases.Clock, "_now", staticmethod(lambda: (float(t := next(now)), t / 2)))
    clock = phases.Clock()
    inner = clock.timed("{phase}", lambda engine: None)
    outer = clock.timed("outer", lambda engine: inner(engine))
    outer(SimpleNamespace(stage=SimpleNamespace(name="train")))
    assert clock.phases() == {phases.REST: [20.0, 10.0], "outer": [20.0, 10.0], "train": [10.0, 5]}


def test_before_and_after_stand_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def measured(checkout: Path, arguments: list[str]) -> dict[str, list[float]]:
        ran.append((checkout.name, arguments))
        return {"train": [8.0 if checkout == tmp_path else 2.0, 4.0], phases.REST: [2.0, 1.0]}

    monkeypatch.setattr(end_to_end, "measure", measured)
    options = ["--against", str(tmp_path), "--rounds", "2", "--device", "cpu"]
    end_to_end.main([*options, "--max_epochs", "1", "--output", str(tmp_path / "found.json")])
    assert [name for name, _ in ran] == [tmp_path.name, end_to_end.HERE.name] * 2
    assert ran[0][1][-2:] == ["--max_epochs", "1"]
    told = capsys.readouterr().out
    assert "| train | 8.0 | 4.0 | 2.0 | 4.0 | 0.25 | 1.00 |" in told
    assert told.splitlines()[-1] == "| total | 10.0 | 5.0 | 4.0 | 5.0 | 0.40 | 1.00 |"
    kept = json.loads((tmp_path / "found.json").read_text())
    assert len(kept["rounds"]["this"]) == 2 and kept["phases"]["before"]["total"] == [10.0, 5.0]


def test_every_phase_names_what_this_checkout_has() -> None:
    script = (
        "from benchmarks import phases\n"
        "clock, seen = phases.Clock(), []\n"
        "clock.timed = lambda name, work: seen.append(name) or work\n"
        "phases.install(clock)\n"
        "assert len(seen) == len(phases.PHASES), seen\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=end_to_end.HERE, check=True)

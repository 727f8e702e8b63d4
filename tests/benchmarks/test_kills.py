import sys
from pathlib import Path

import pytest
import torch

from benchmarks import kills
from benchmarks.kills import ENDED, PHASES, Kill, durations, equal_weights, killed, phase_of, table

LINES = (
    "Data: a folder",
    "Tracking: off",
    "Pre-training epoch 1/1: loss 1",
    "Epoch 1/1: loss 1",
    "Calibrated on 11 held-out normal images",
    "Model written: model.pt",
)
"""What a training says at the beginning of each phase."""


def stand_in(*lines: str, seconds: float = 0.2) -> list[str]:
    """A program that says lines, with pauses."""
    said = "; ".join(f"print({line!r}, flush=True); time.sleep({seconds})" for line in lines)
    return [sys.executable, "-c", f"import time; {said}"]


def test_the_phases_are_read_from_the_log() -> None:
    assert [phase_of("\n".join(LINES[:n])) for n in range(1, 7)] == list(PHASES)
    for where, phase in (
        ("its beginning", "pre-training"),
        ("pretrain, epoch 1", "pre-training"),
        ("the end of pretrain", "training"),
        ("train, iteration 7", "training"),
        ("the end of train", "calibration"),
    ):
        resumed = f"Going on with an interrupted training from {where} (folder)."
        assert phase_of(resumed) == "reading"
        assert phase_of(f"{resumed}\nTracking: off") == phase
    assert phase_of("Tracking: off\nPre-training epoch 1/2: loss 1") == "pre-training"


@pytest.mark.parametrize("phase", PHASES)
def test_a_kill_falls_into_its_phase(tmp_path: Path, phase: str) -> None:
    found = killed(stand_in(*LINES), tmp_path / "log", phase, 0.0)
    assert found is not None and found.phase == phase and found.resumed == ""


def test_a_program_that_ends_is_not_killed(tmp_path: Path) -> None:
    assert killed(stand_in("Data", seconds=0.0), tmp_path / "log", "evaluation", 0.0) is None
    late = stand_in(*LINES, "====", seconds=0.05)
    assert killed(late, tmp_path / "log", ENDED, 0.0) is None
    spent = durations(late, tmp_path / "log")
    assert set(spent) == {*PHASES, ENDED} and all(seconds > 0 for seconds in spent.values())
    for run in (durations, lambda *given: killed(*given, "evaluation", 0.0)):
        with pytest.raises(RuntimeError, match="failed; its log is"):
            run([sys.executable, "-c", "raise SystemExit(1)"], tmp_path / "log")


def test_weights_are_compared_bit_for_bit(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 1.0 + 1e-7)):
        torch.save({"model": {"x": torch.tensor(value)}}, tmp_path / name)
    torch.save({"model": {"y": torch.tensor(1.0)}}, tmp_path / "d")
    found = [equal_weights(tmp_path / "a", tmp_path / other) for other in "abcd"]
    assert found == [True, True, False, False]


def test_the_table_tells_each_kill() -> None:
    lines = table([Kill("training", 3.21, ""), Kill("evaluation", 1.0, "the end of train")])
    assert lines.splitlines()[2:] == [
        "| 1 | training | 3.2 | - |",
        "| 2 | evaluation | 1.0 | the end of train |",
    ]


def test_a_whole_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(folder: Path, options: list[str]) -> list[str]:
        (folder / "models").mkdir(parents=True)
        torch.save({"model": {"x": torch.tensor(len(options))}}, folder / "models" / "model.pt")
        return stand_in(*LINES, seconds=0.1)

    monkeypatch.setattr(kills, "_command", command)
    monkeypatch.setattr(kills, "run_states", lambda database: ["FINISHED"])
    kills.main(["--kills", "3", "--output", str(tmp_path), "--", "--seed", "3"])
    told = capsys.readouterr().out
    assert told.count("\n| ") == 3 and "Equal weights: yes." in told
    assert told.endswith("MLflow runs: FINISHED.\n")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import exports
from benchmarks.exports import main, paired_times
from networks import AnomalyScorer
from pipelines.scoring.model_file import save_model

MakeImages = Callable[..., Tensor]


def test_the_turns_alternate() -> None:
    calls: list[str] = []
    pairs = paired_times(
        lambda image: calls.append("a"), lambda image: calls.append("b"), torch.zeros(1), repeats=4
    )
    assert len(pairs) == 4 and all(len(pair) == 2 for pair in pairs)
    assert "".join(calls) == "abba" * 3


def test_both_tables_are_printed(
    tmp_path: Path,
    make_scorer: Callable[..., AnomalyScorer],
    make_images: MakeImages,
    calibrate: Callable[[AnomalyScorer, Tensor], AnomalyScorer],
    model_facts: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The slow export to ONNX is tested with the exports; here only the tables are.
    monkeypatch.setattr(exports, "FORMATS", {"torchscript": exports.FORMATS["torchscript"]})
    monkeypatch.setattr(exports, "load_onnx", lambda path, threads: (torch.clone, {}))
    save_model(tmp_path / "model.pt", calibrate(make_scorer(), make_images(8)), model_facts)
    threads = torch.get_num_threads()
    main(["--ckpt_dir", str(tmp_path), "--batches", "1", "3", "--repeats", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| torchscript | 24 | ") and lines[2].endswith(" | 0 |")
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| 1", "| 3"]
    assert torch.get_num_threads() == threads
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_missing_model_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["--ckpt_dir", str(tmp_path)])
    assert "there is no model file" in capsys.readouterr().err

"""The files of an evaluation."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.evaluation import ResultCollector
from pipelines.evaluation_run import Evaluation
from pipelines.examples import Example
from transforms.errors import InputError


class FakeEvaluator:
    """Scores nothing: fills the collector when run."""

    def __init__(self, collector: ResultCollector, rows: list[dict[str, Any]]) -> None:
        self.collector = collector
        self.rows = rows
        self.network = SimpleNamespace(
            threshold=torch.tensor(1.5),
            pixel_threshold=torch.tensor(2.5),
            n_normal=torch.tensor(40),
            target_fpr=torch.tensor(0.05),
        )

    def run(self) -> None:
        self.collector.rows = self.rows
        mask = np.eye(8, dtype=bool)
        for patient in ("p0", "p1"):
            self.collector.pixels.add(patient, 3.0 * mask, mask)
        image = np.zeros((8, 8), np.float32)
        maps = {"anomaly_map": image, "recon": image}
        example = Example("detected", "c", 0, 1.0, image, image, maps, mask)
        self.collector.examples._offer = lambda *args: None  # type: ignore[method-assign]
        self.collector.examples.examples = lambda: [example]  # type: ignore[method-assign]


def make_rows() -> list[dict[str, Any]]:
    rows = [
        {
            "case": f"c{i}",
            "patient": f"p{i // 2}",
            "slice": i,
            "label": i % 2,
            "score": float(i),
            "flow_score": float(i),
            "recon_score": 0.5 * i,
            "percentile": 10.0 * i,
            "flagged": int(i > 1),
            "sharpness": -1.0,
            "mean": 0.1 * i,
        }
        for i in range(8)
    ]
    return [*rows, rows[0] | {"case": "c8", "label": "", "score": 50.0}]


def evaluation_of(rows: list[dict[str, Any]], output_dir: Path, **kwargs: Any) -> Evaluation:
    collector = ResultCollector()
    evaluator: Any = FakeEvaluator(collector, rows)
    return Evaluation(evaluator, collector, str(output_dir), volumetric=True, **kwargs)


def test_all_files_are_written(tmp_path: Path) -> None:
    evaluation = evaluation_of(
        make_rows(), tmp_path / "out", notes=("these are phantoms",), about={"layout": "brats"}
    )
    assert evaluation.files() == []
    metrics = evaluation.run()
    names = ["metrics.json", "scores.csv", "examples.png", "scores.png"]
    assert [path.name for path in evaluation.files()] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert metrics["notes"] == ["these are phantoms"] and metrics["about"] == {"layout": "brats"}
    assert metrics["n_calibration"] == {"value": 40, "ci95": None}
    assert metrics["target_fpr"]["value"] == pytest.approx(0.05)
    assert metrics["threshold"]["value"] == 1.5 and metrics["pixel_threshold"]["value"] == 2.5
    assert metrics["n_normal"]["value"] == 4 and metrics["dice_at_threshold"]["value"] == 1.0


def test_scores_hold_every_row_but_no_patients(tmp_path: Path) -> None:
    rows = make_rows()
    evaluation_of(rows, tmp_path).run()
    with (tmp_path / "scores.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    first = ["case", "slice", "label", "score", "flow_score", "recon_score", "percentile"]
    assert list(table[0]) == [*first, "flagged", "sharpness", "mean"]
    assert [row["case"] for row in table] == [row["case"] for row in rows]
    assert [float(row["score"]) for row in table] == [row["score"] for row in rows]
    assert table[-1]["label"] == ""


def test_no_rows_give_no_figures(tmp_path: Path) -> None:
    evaluation = evaluation_of([], tmp_path)
    metrics = evaluation.run()
    assert metrics["n_normal"]["value"] == 0 and "image_auroc" not in metrics
    assert not (tmp_path / "scores.png").exists()
    assert (tmp_path / "metrics.json").exists() and (tmp_path / "scores.csv").exists()


def test_a_folder_that_cannot_be_made_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    evaluation = evaluation_of(make_rows(), tmp_path / "file" / "out")
    with pytest.raises(InputError, match="output_dir"):
        evaluation.run()
    assert evaluation.collector.rows == []

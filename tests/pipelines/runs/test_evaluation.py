"""The files of an evaluation."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.batch.case_run import Gathered
from pipelines.data.cases import Case, FailedCase
from pipelines.metrics.pixel import PixelHistogram
from pipelines.outputs.examples import Example
from pipelines.runs import evaluation as evaluation_run
from pipelines.runs.evaluation import Evaluation, report_on, write_scores

Row = dict[str, Any]


def make_rows() -> list[Row]:
    """Eight slices of four volumes and one of unknown label; a row for the first volume."""
    rows: list[Row] = [
        {
            "case": f"c{i // 2}",
            "patient": f"p{i // 2}",
            "level": "slice",
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
    whole = {"level": "volume", "slice": "", "label": 1, "score": 99.0, "percentile": ""}
    return [*rows, rows[0] | {"case": "c8", "label": "", "score": 50.0}, rows[0] | whole]


def make_example() -> Example:
    image = np.zeros((8, 8), np.float32)
    return Example("detected", "c", 0, 1.0, image, image, {"anomaly_map": image}, None)


class FakeCases:
    """Scores nothing: gives the rows when run."""

    def __init__(self, output_dir: Path, rows: list[Row], failures: int = 0) -> None:
        self.output_dir = output_dir
        self.rows = rows
        self.failures = [FailedCase(Case(f"f{n}", "p", ()), f"cut {n}") for n in range(failures)]
        self.evaluator = SimpleNamespace(
            scorer=SimpleNamespace(
                threshold=torch.tensor(1.5),
                pixel_threshold=torch.tensor(2.5),
                n_normal=torch.tensor(40),
                target_fpr=torch.tensor(0.05),
                quantiles=torch.linspace(0, 1, 5),
            )
        )

    def run(self) -> Gathered:
        pixels, mask = PixelHistogram(), np.eye(8, dtype=bool)
        for patient in ("p0", "p1"):
            pixels.add(patient, 3.0 * mask, mask)
        return Gathered(self.rows, pixels, PixelHistogram(), [make_example()], self.failures)


def evaluation_of(output_dir: Path, rows: list[Row], failures: int = 0, **kw: Any) -> Evaluation:
    cases: Any = FakeCases(output_dir, rows, failures)
    return Evaluation(cases, volumetric=True, **kw)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What reports are made of."""
    found: list[Any] = []

    def write(folder: Path, content: Any) -> Path:
        found.append(content)
        (folder / "report.html").write_text("report")
        return folder / "report.html"

    monkeypatch.setattr(evaluation_run, "ReportContent", SimpleNamespace)
    monkeypatch.setattr(evaluation_run, "write_report", write)
    monkeypatch.setattr(evaluation_run, "viewer_volumes", lambda cases, gathered: ["a volume"])
    return found


def test_all_files_are_written(tmp_path: Path, reports: list[Any]) -> None:
    folder = tmp_path / "out"
    evaluation = evaluation_of(
        folder, make_rows(), 2, notes=("these are phantoms",), about={"layout": "brats"}
    )
    assert evaluation.files() == []
    metrics = evaluation.run()
    evaluation.report("Evaluation", {})
    names = ["metrics.json", "scores.csv", "report.html"]
    assert [path.name for path in evaluation.files()] == names
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    for name in ("failures.csv", "roc.png"):
        (folder / name).write_text("")
        assert name in [path.name for path in evaluation.files()]
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert metrics["notes"] == ["these are phantoms"] and metrics["about"] == {"layout": "brats"}
    assert metrics["n_calibration"] == {"value": 40, "ci95": None}
    assert metrics["n_failed"] == {"value": 2, "ci95": None}
    assert metrics["target_fpr"]["value"] == pytest.approx(0.05)
    assert metrics["threshold"]["value"] == 1.5 and metrics["pixel_threshold"]["value"] == 2.5
    assert metrics["n_normal"]["value"] == 4 and metrics["dice_at_threshold"]["value"] == 1.0
    assert metrics["volumes"]["n_anomalous"]["value"] == 1
    assert set(metrics["patients"]) == {"p0", "p1", "p2", "p3"}


def test_scores_hold_every_row_but_no_patients(tmp_path: Path) -> None:
    rows = make_rows()
    write_scores(tmp_path / "scores.csv", rows)
    with (tmp_path / "scores.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    first = ["case", "level", "slice", "label", "score", "flow_score", "recon_score"]
    assert list(table[0]) == [*first, "percentile", "flagged", "sharpness", "mean"]
    for name in ("case", "level", "slice", "label", "score", "percentile", "flagged"):
        assert [row[name] for row in table] == [str(row[name]) for row in rows], name
    write_scores(tmp_path / "scores.csv", [{"head_score": 1.0, "mean": 2.0, **rows[0]}])
    header = (tmp_path / "scores.csv").read_text().splitlines()[0]
    assert ",recon_score,head_score,percentile," in header and header.endswith("mean,sharpness")


def test_no_rows_give_no_figures(tmp_path: Path) -> None:
    metrics = evaluation_of(tmp_path, []).run()
    assert metrics["n_normal"]["value"] == 0 and "image_auroc" not in metrics
    assert (tmp_path / "metrics.json").exists() and (tmp_path / "scores.csv").exists()


def test_the_report_holds_what_was_found(tmp_path: Path, reports: list[Any]) -> None:
    evaluation = evaluation_of(tmp_path, make_rows(), 1, notes=("a note",), about={"layout": "x"})
    with pytest.raises(RuntimeError, match="call run first"):
        evaluation.report("Evaluation", {})
    evaluation.run()
    path = evaluation.report("Training", {"device": "cpu"}, history=[{"train_loss": 1.0}])
    assert path == tmp_path / "report.html"
    (content,) = reports
    assert content.title == "Training" and content.about == {"device": "cpu", "layout": "x"}
    assert content.rows == make_rows() and content.metrics == evaluation.metrics
    assert (content.threshold, content.n_normal) == (1.5, 40)
    assert content.target_fpr == pytest.approx(0.05)
    assert content.quantiles.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert content.history == [{"train_loss": 1.0}] and content.notes == ["a note"]
    assert [example.case for example in content.examples] == ["c"]
    assert content.volumes == ["a volume"] and content.volumetric
    assert content.failures == [{"case": "f0", "reason": "cut 0"}]


def test_a_report_on_pictures_has_no_viewer(tmp_path: Path, reports: list[Any]) -> None:
    cases: Any = FakeCases(tmp_path, make_rows())
    report_on(cases, cases.run(), "Inference", {})
    (content,) = reports
    assert content.volumes == () and content.metrics is None and not content.volumetric

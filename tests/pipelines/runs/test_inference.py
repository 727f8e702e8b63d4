"""Inference."""

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.cases import Case, Cohort
from pipelines.data.cohort import Data, seen_by, seen_content
from pipelines.data.inputs import InputFiles
from pipelines.data.layouts.walk import LeftOut
from pipelines.data.splits import Split
from pipelines.metrics.rows import ScoreRow
from pipelines.runs.inference import MOST_TOLD, Inference, told
from transforms.errors import InputError

Infer = Callable[..., None]
MODEL: dict[str, Any] = {
    "notes": ["these are phantoms"],
    "modalities": ["flair", "t2"],
    "volumetric": True,
    "created": "yesterday",
    "versions": {"torch": "2"},
}


def row(case: str, score: float, level: Any = "volume", **more: Any) -> ScoreRow:
    known: dict[str, Any] = {"percentile": 97.5, "flagged": False, **more}
    number, parts = None if level == "volume" else 3, {"flow": 0.0, "recon": 0.0}
    return ScoreRow(case, "someone", level, number, None, score, parts, **known)


@pytest.fixture
def infer(make_cases: Callable[..., Any], evaluator: Any) -> Infer:
    def run(
        folder: Path, rows: list[ScoreRow], failures: int = 0, left_out: tuple[LeftOut, ...] = ()
    ) -> None:
        cases = make_cases(folder, rows, failures=failures)
        Inference(cases, evaluator, MODEL, InputFiles((), left_out)).run()

    return run


def test_an_image_in_a_line() -> None:
    assert told(row("a", 1.234)).split() == ["a", "score", "1.23", "percentile", "97.5"]
    assert told(row("a", -1.0, flagged=True)).endswith("percentile  97.5  FLAGGED")
    undecided = told(row("a", 1.0, flagged=None, percentile=None))
    assert undecided.endswith("(no threshold)") and "percentile" not in undecided


def test_the_most_anomalous_come_first(
    infer: Infer, tmp_path: Path, reports: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row("a", 1.0), row("a", 99.0, "slice"), row("b", 3.0, flagged=True), row("c", 2.0)]
    with caplog.at_level(logging.INFO, "pipelines"):
        infer(tmp_path, rows)
    lines = caplog.text.splitlines()
    assert "Scored 3 images, the most anomalous first:" in lines
    named = [line.split()[0] for line in lines if " score " in line]
    assert named == ["b", "c", "a"] and "99.00" not in caplog.text
    assert "Note: these are phantoms" in lines and "Left out" not in caplog.text
    for place in ("scores.csv", "maps", "panels"):
        assert str(tmp_path / place) in caplog.text
    (report,) = reports
    assert report.title == "Inference" and report.notes == ["these are phantoms"]
    assert report.metrics is None and report.volumetric is True
    assert report.thumbnails == {"c": b"JPEG"}
    assert report.about["modalities"] == "flair, t2" and report.about["device"] == "cpu"
    assert report.about["images"] == 7 and report.about["model of"] == "yesterday"
    assert list(report.about)[-1] == "model's version of torch"


def test_many_images_are_counted(
    infer: Infer, tmp_path: Path, reports: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row(f"c{n}", float(n), "image") for n in range(MOST_TOLD + 7)]
    with caplog.at_level(logging.INFO, "pipelines"):
        infer(tmp_path, rows)
    assert caplog.text.count(" score ") == MOST_TOLD and "and 7 more in scores.csv" in caplog.text


def test_scores_are_written_without_patients(
    infer: Infer, tmp_path: Path, reports: list[Any]
) -> None:
    infer(tmp_path / "out", [row("a", 1.0), row("a", 2.0, "slice")])
    with (tmp_path / "out" / "scores.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [line["level"] for line in table] == ["volume", "slice"]
    assert "patient" not in table[0] and "someone" not in str(table)
    assert {line["label"] for line in table} == {""}


def test_images_left_out_are_told_at_the_end(
    infer: Infer, tmp_path: Path, reports: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "pipelines"):
        with pytest.raises(InputError, match="2 of 7 cases could not be used"):
            infer(tmp_path, [row("a", 1.0)], failures=2)
    assert "Left out: 2, see failures.csv" in caplog.text
    assert (tmp_path / "scores.csv").exists() and len(reports) == 1
    with pytest.raises(InputError, match="1 of 7"):
        infer(tmp_path / "none", [], failures=1)
    assert (tmp_path / "none" / "scores.csv").exists()


def test_what_was_no_image_is_listed_beside_the_scores(
    infer: Infer, tmp_path: Path, reports: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    left_out = (LeftOut("notes.txt", "no image"), LeftOut("b/caf\\xe9", "no UTF-8"))
    with caplog.at_level(logging.INFO, "pipelines"):
        infer(tmp_path, [row("a", 1.0)], left_out=left_out)
    assert "Not used: 2 other files, see left_out.csv" in caplog.text
    with (tmp_path / "left_out.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [
            {"file": "notes.txt", "reason": "no image"},
            {"file": "b/caf\\xe9", "reason": "no UTF-8"},
        ]
    infer(tmp_path, [row("a", 1.0)])
    assert not (tmp_path / "left_out.csv").exists()


def test_a_folder_that_cannot_be_made_is_told(
    infer: Infer, tmp_path: Path, reports: list[Any]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output_dir"):
        infer(tmp_path / "file" / "out", [])
    assert reports == []


def test_what_the_model_has_seen_is_told(
    make_cases: Callable[..., Any], evaluator: Any, tmp_path: Path, reports: list[Any]
) -> None:
    scans = [Case(name, name, (tmp_path / name,)) for name in ("known", "new")]
    for one in scans:
        one.images[0].write_text(one.name)
    fingerprints = seen_content(
        Data(Cohort("x", tmp_path, (), ("a",), True), Split((), (), ()), ()), scans[:1]
    )
    model = {**MODEL, "seen": fingerprints}
    cases = make_cases(tmp_path / "out", [row("known", 1.0), row("new", 1.0)])
    Inference(cases, evaluator, model, InputFiles(tuple(scans))).run()
    told = reports[0].notes[-1]
    assert told.startswith("1 of 2 images trained or calibrated the model") and "known." in told


def test_a_file_that_cannot_be_read_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    scan = tmp_path / "scan"
    scan.write_text("x")
    monkeypatch.setattr(Path, "open", refuse)
    assert seen_by({"seen": ["0123456789abcdef"]}, [Case("a", "a", (scan,))]) == []

"""The frame of a run, and its last words."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.batch.case_run import Gathered
from pipelines.runs.session import Session, framed, write_scores
from transforms.errors import InputError


class Bare(Session):
    """Finds one thing and leaves it in one place."""

    title = "Bare"
    tracked = ("scores.csv", "report.html", "never.png")

    def _lines(self, gathered: Gathered, metrics: Any) -> list[str]:
        return [f"{len(gathered.rows)} rows found"]

    def _places(self) -> dict[str, Any]:
        return {"here": self.output_dir / "here"}


@pytest.fixture
def make_run(
    make_cases: Callable[..., Any], evaluator: Any, tracker: Any, reports: list[Any]
) -> Callable[..., Bare]:
    def make(output_dir: Path, volumetric: bool = True, **how: Any) -> Bare:
        return Bare(make_cases(output_dir, **how), evaluator, volumetric, ("a note",), tracker)

    return make


def test_a_whole_run(
    make_run: Callable[..., Bare], tracker: Any, tmp_path: Path, lines: Callable[[], str]
) -> None:
    make_run(tmp_path / "out").run()
    assert tracker.told == ["start bare", "enter", "leave", "finish"]
    assert tracker.artifacts == ["scores.csv", "report.html"]
    told = lines()
    assert "Note: a note" in told and "12 rows found" in told
    assert str(tmp_path / "out" / "report.html") in told and str(tmp_path / "out" / "here") in told
    assert "duration" in told


def test_a_failing_run_is_tracked_as_failed(
    make_run: Callable[..., Bare], tracker: Any, tmp_path: Path
) -> None:
    with pytest.raises(ZeroDivisionError):
        make_run(tmp_path, error=ZeroDivisionError()).run()
    assert tracker.told == ["start bare", "enter", "fail"]


def test_a_folder_that_cannot_be_made_is_told_before_any_work(
    make_run: Callable[..., Bare], tracker: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output_dir"):
        make_run(tmp_path / "file" / "out", error=KeyError("work")).run()
    assert tracker.told == []


def test_cases_left_out_end_a_run_that_is_complete_otherwise(
    make_run: Callable[..., Bare], tracker: Any, tmp_path: Path, lines: Callable[[], str]
) -> None:
    with pytest.raises(InputError, match="2 of 7 cases could not be used") as caught:
        make_run(tmp_path, failures=2).run()
    assert tracker.told == ["start bare", "enter", "leave", "finish"]
    assert (tmp_path / "report.html").exists() and "rows found" in lines()
    assert str(tmp_path / "failures.csv") in str(caught.value)
    assert "The first, f0: cut 0" in str(caught.value) and "all others" in str(caught.value)
    make_run(tmp_path).run()
    with pytest.raises(InputError, match="7 of 7 cases") as caught:
        make_run(tmp_path, failures=7).run()
    assert "all others" not in str(caught.value)


def test_without_tracking_nothing_is_tracked(
    make_cases: Callable[..., Any], evaluator: Any, reports: list[Any], tmp_path: Path
) -> None:
    run = Session(make_cases(tmp_path), evaluator, True)
    run.run()
    assert run.tracker.where == "off"
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["report.html", "scores.csv"]


def test_the_report_holds_what_was_found(
    make_run: Callable[..., Bare], reports: list[Any], rows: list[Any], tmp_path: Path
) -> None:
    make_run(tmp_path, failures=0).run()
    (content,) = reports
    assert content.title == "Bare" and content.rows == rows and content.metrics is None
    assert list(content.about) == ["device", "duration", "finished"]
    assert content.about["device"] == "cpu"
    assert (content.threshold, content.n_normal) == (1.5, 40)
    assert content.target_fpr == pytest.approx(0.05)
    assert content.quantiles.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert content.history == [] and content.notes == ["a note"]
    assert [example.case for example in content.examples] == ["c"]
    assert content.volumes == ["a volume"] and content.volumetric
    with pytest.raises(InputError, match="1 of 7"):
        make_run(tmp_path, failures=1).run()
    assert reports[1].failures == [{"case": "f0", "reason": "cut 0"}]


def test_a_report_on_pictures_has_no_viewer(
    make_run: Callable[..., Bare], reports: list[Any], tmp_path: Path
) -> None:
    make_run(tmp_path, volumetric=False).run()
    (content,) = reports
    assert content.volumes == () and not content.volumetric


SCOPE = ("in_scope", "out_of_scope")


def test_scores_hold_every_row_but_no_patients(tmp_path: Path, rows: list[Any]) -> None:
    write_scores(tmp_path / "scores.csv", rows)
    with (tmp_path / "scores.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    first = ["case", "level", "slice", "label", "score", "flow_score", "recon_score"]
    assert list(table[0]) == [
        *first,
        "percentile",
        "p_value",
        "flagged",
        *SCOPE,
        "sharpness",
        "mean",
    ]
    for name in ("case", "level", "slice", "label", "score", "percentile", "flagged"):
        assert [row[name] for row in table] == [str(row.cells()[name]) for row in rows], name
    assert [row["flagged"] for row in table] == [*"001111111100"]
    assert [row["recon_score"] for row in table] == [str(row.parts["recon"]) for row in rows]
    assert (table[-1]["slice"], table[-1]["percentile"], table[-2]["label"]) == ("", "", "")
    parts = {**rows[0].parts, "head": 1.0}
    write_scores(tmp_path / "scores.csv", [replace(rows[0], parts=parts), *rows])
    header = (tmp_path / "scores.csv").read_text().splitlines()[0]
    assert ",recon_score,head_score,percentile," in header and header.endswith("sharpness,mean")


def test_the_last_words_tell_notes_findings_and_places() -> None:
    told = framed(["these are phantoms"], ["found"], {"model": "models/model.pt"}).splitlines()
    assert told[2:4] == ["Note: these are phantoms", "found"]
    assert told[-2].split() == ["model", "models/model.pt"]

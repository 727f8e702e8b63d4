"""Writing behind the scoring."""

import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.batch import writer as case_writer
from pipelines.batch.results import CaseResult
from pipelines.batch.writer import AHEAD, CaseWriter
from pipelines.data.cases import Case
from pipelines.data.slices import CaseLoader
from pipelines.outputs.examples import candidates
from pipelines.scoring.cases import ScoredCase

WriteVolume = Callable[..., Path]
FakeScored = Callable[..., ScoredCase]


@pytest.fixture
def scored(write_volume: WriteVolume, fake_scored: FakeScored) -> ScoredCase:
    sample = CaseLoader(32)(Case("a", "pa", (write_volume("a"),)))
    return fake_scored(sample)


def submit(
    writer: CaseWriter, scored: ScoredCase, name: str = "a", panel: Sequence[Any] | None = None
) -> None:
    panel = candidates(scored)[:1] if panel is None else panel
    writer.submit(scored, panel, [], writer.output_dir / "cases" / f"{name}.npz", "stamp")


def test_files_are_as_asked_for(scored: ScoredCase, tmp_path: Path) -> None:
    for number, (maps, panels) in enumerate([(True, True), (False, False)]):
        folder = tmp_path / f"out{number}"
        writer = CaseWriter(folder, 1.0, maps, panels)
        submit(writer, scored)
        writer.close()
        assert (folder / "cases" / "a.npz").exists()
        assert (folder / "maps" / "a_anomaly.nii.gz").exists() == maps
        assert (folder / "maps" / "a_mask.nii.gz").exists() == maps
        assert (folder / "panels" / "a.png").exists() == panels


def test_a_panel_shows_the_case(
    scored: ScoredCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(case_writer, "save_panels", lambda *told: drawn.append(told) or [])
    writer = CaseWriter(tmp_path, 1.0, panels=True)
    submit(writer, scored, panel=["first"])
    writer.close()
    assert drawn == [(tmp_path / "panels" / "a.png", ["first"], 1.0)]


def test_the_result_is_written_last(
    scored: ScoredCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def note(what: str) -> Callable[..., list[Path]]:
        return lambda *args, **kwargs: order.append(what) or []

    for name in ("write_maps", "save_panels", "save_result"):
        monkeypatch.setattr(case_writer, name, note(name))
    further = [note("a further file")]
    writer = CaseWriter(tmp_path, 1.0, maps=True, panels=True, further=further)
    submit(writer, scored)
    writer.close()
    assert order == ["write_maps", "a further file", "save_panels", "save_result"]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_at_most_a_few_cases_wait(
    scored: ScoredCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    ahead = AHEAD + batch_size - 1
    gate, started = threading.Semaphore(0), threading.Semaphore(0)
    written: list[str] = []

    def save(path: Path, result: CaseResult, stamp: str, files: list[Path]) -> None:
        started.release()
        gate.acquire()
        written.append(path.stem)

    monkeypatch.setattr(case_writer, "save_result", save)
    monkeypatch.setattr(case_writer, "spare_threads", lambda: 1)
    writer = CaseWriter(tmp_path, 1.0, batch_size=batch_size)
    at_once, accepted = threading.Event(), threading.Event()

    def submit_all() -> None:
        for number in range(ahead):
            submit(writer, scored, str(number))
        at_once.set()
        submit(writer, scored, str(ahead))
        accepted.set()

    thread = threading.Thread(target=submit_all, daemon=True)
    thread.start()
    started.acquire()
    assert at_once.wait(60)
    too_early, nothing = accepted.wait(0.3), list(written)
    gate.release()
    in_time = accepted.wait(60)
    for _ in range(ahead):
        gate.release()
    thread.join()
    writer.close()
    assert nothing == [] and not too_early and in_time
    assert written == [str(number) for number in range(ahead + 1)]


def test_workers_write_at_once_and_tell_of_the_first_error(
    scored: ScoredCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_writer, "spare_threads", lambda: 2)
    monkeypatch.setattr(case_writer, "AHEAD", 3)
    together = threading.Barrier(2, timeout=60)

    def save(path: Path, result: CaseResult, stamp: str, files: list[Path]) -> None:
        together.wait()  # for ever, if one came after the other
        if path.stem == "0":
            raise OSError("no space left")

    monkeypatch.setattr(case_writer, "save_result", save)
    writer = CaseWriter(tmp_path, 1.0)
    for number in range(2):
        submit(writer, scored, str(number))
    with pytest.raises(OSError, match="no space left"):
        writer.close()


def test_the_scoring_does_not_wait_for_the_writing(
    scored: ScoredCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(case_writer, "save_result", lambda *args: gate.wait(60))
    writer = CaseWriter(tmp_path, 1.0)
    for number in range(AHEAD):
        submit(writer, scored, str(number))
    waiting = [one.done() for one in writer._waiting]
    gate.set()
    writer.close()
    assert waiting == [False] * AHEAD


def test_a_written_case_is_let_go(
    write_volume: WriteVolume, fake_scored: FakeScored, tmp_path: Path
) -> None:
    sample = CaseLoader(32)(Case("a", "pa", (write_volume("a"),)))
    writer = CaseWriter(tmp_path, 1.0)
    one = fake_scored(sample)
    alive = weakref.ref(one)
    submit(writer, one)
    writer._waiting[0].result()
    submit(writer, fake_scored(sample), "b")
    writer._waiting[1].result()
    del one
    gc.collect()
    assert alive() is None
    writer.close()


@pytest.mark.parametrize("where", ["write_maps", "save_panels"])
def test_an_error_comes_back_and_leaves_no_result(
    scored: ScoredCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(case_writer, where, fail)
    writer = CaseWriter(tmp_path, 1.0, maps=True, panels=True)
    with pytest.raises(OSError, match="no space left"):
        for number in range(AHEAD + 1):
            submit(writer, scored, str(number))
    with pytest.raises(OSError, match="no space left"):
        writer.close()
    assert not (tmp_path / "cases").exists()
    writer.close()  # once told, it is over


def test_closing_tells_of_the_last_case(
    scored: ScoredCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(one: ScoredCase, folder: Path) -> None:
        raise ValueError("cannot be written")

    writer = CaseWriter(tmp_path, 1.0, further=[fail])
    submit(writer, scored)
    with pytest.raises(ValueError, match="cannot be written"):
        writer.close()
    assert not (tmp_path / "cases" / "a.npz").exists()

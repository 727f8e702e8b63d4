"""Many cases, unattended."""

import csv
import gc
import gzip
import logging
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from ignite.engine import Events

from pipelines.batch import case_run as evaluation
from pipelines.batch import writer as case_writer
from pipelines.batch.case_run import CaseRun, Gathered
from pipelines.batch.writer import AHEAD
from pipelines.data.cases import Case
from pipelines.outputs.examples import Example
from pipelines.scoring import cases as scoring
from pipelines.scoring.cases import ScoredCase

WriteVolume = Callable[..., Path]
MakeRun = Callable[..., CaseRun]


def facts(example: Example) -> tuple[Any, ...]:
    pictures = (example.image, example.reconstruction, *example.maps.values())
    told = (example.kind, example.case, example.index, example.score)
    mask = None if example.mask is None else example.mask.tobytes()
    return (*told, *(picture.tobytes() for picture in pictures), mask)


def assert_equal(found: Gathered, expected: Gathered) -> None:
    assert found.rows == expected.rows
    assert found.baseline_pixels.keys() == expected.baseline_pixels.keys()
    pairs = [(found.pixels, expected.pixels)]
    pairs += [(one, expected.baseline_pixels[n]) for n, one in found.baseline_pixels.items()]
    for one, other in ((a.state_dict(), b.state_dict()) for a, b in pairs):
        assert all(np.array_equal(one[key], other[key]) for key in other)
    assert [facts(one) for one in found.examples] == [facts(one) for one in expected.examples]
    assert found.thumbnails == expected.thumbnails
    assert found.failures == expected.failures


def stop_after(run: CaseRun, count: int) -> None:
    """Ends a run by an error before the case after ``count`` is scored."""

    def stop(engine: Any) -> None:
        if engine.state.iteration > count:
            raise KeyError("killed")

    run.evaluator.add_event_handler(Events.ITERATION_STARTED, stop)
    with pytest.raises(KeyError, match="killed"):
        run.run()


def failures_in(folder: Path) -> dict[str, str]:
    with (folder / "failures.csv").open(newline="") as stream:
        return {row["case"]: row["reason"] for row in csv.DictReader(stream)}


def test_all_cases_are_scored_and_written(
    make_run: MakeRun, volumes: list[Case], seen: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    panels: list[tuple[str, list[str]]] = []

    def draw(path: Path, shown: list[Example], threshold: float) -> list[Path]:
        panels.append((path.name, [one.kind for one in shown]))
        return []

    monkeypatch.setattr(case_writer, "save_panels", draw)
    genuine = evaluation.candidates

    def twice(scored: ScoredCase) -> list[Example]:
        return [replace(genuine(scored)[0], kind=kind) for kind in ("missed", "scored")]

    monkeypatch.setattr(evaluation, "candidates", twice)
    gathered = make_run(volumes, save_panels=True).run()
    names = [case.name for case in volumes]
    assert seen == names and gathered.failures == []
    assert [row.case for row in gathered.rows if row.level == "volume"] == names
    assert [row.level for row in gathered.rows] == ["slice", *["slice"] * 3, "volume"] * 6
    assert gathered.pixels.patients == tuple(f"p{n}" for n in range(6))
    found = {path.name for path in (tmp_path / "out" / "maps").iterdir()}
    assert found == {f"{n}_{what}.nii.gz" for n in names for what in ("anomaly", "mask")}
    assert panels == [(f"{name}.png", ["missed"]) for name in names]  # the first of the two
    assert not (tmp_path / "out" / "failures.csv").exists()
    assert [one.kind for one in gathered.examples] == ["missed"] * 4 + ["scored"] * 4
    assert list(gathered.thumbnails) == names and len(set(gathered.thumbnails.values())) == 6


def test_a_killed_run_goes_on_where_it_stopped(
    make_run: MakeRun, volumes: list[Case], seen: list[str], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    whole = make_run(volumes, folder="whole").run()
    seen.clear()
    stop_after(make_run(volumes), 3)
    assert seen == ["v0", "v1", "v2"]
    assert sorted(path.stem for path in (tmp_path / "out" / "cases").iterdir()) == seen
    seen.clear()
    with caplog.at_level(logging.INFO, "pipelines.batch.case_run"):
        resumed = make_run(volumes).run()
    assert seen == ["v3", "v4", "v5"] and "3 of 6 cases are finished already" in caplog.text
    assert_equal(resumed, whole)
    for name in ("v0", "v5"):
        maps = [tmp_path / out / "maps" / f"{name}_anomaly.nii.gz" for out in ("whole", "out")]
        one, other = (np.asarray(nib.load(path).dataobj) for path in maps)  # type: ignore[attr-defined]
        assert (one == other).all()
    seen.clear()
    assert_equal(make_run(volumes).run(), whole)
    assert seen == []


def test_examples_survive_any_interruption(
    make_run: MakeRun, volumes: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Few(evaluation.ExampleKeeper):
        def __init__(self) -> None:
            super().__init__(per_kind=2)

    monkeypatch.setattr(evaluation, "ExampleKeeper", Few)
    whole = make_run(volumes, folder="whole", save_maps=False).run()
    assert len(whole.examples) < 6
    for count in (1, 4):
        folder = f"stopped{count}"
        stop_after(make_run(volumes, folder=folder, save_maps=False), count)
        assert_equal(make_run(volumes, folder=folder, save_maps=False).run(), whole)


def test_a_half_written_result_does_not_count(
    make_run: MakeRun, volumes: list[Case], seen: list[str], tmp_path: Path
) -> None:
    whole = make_run(volumes[:3]).run()
    stored = tmp_path / "out" / "cases" / "v1.npz"
    content = stored.read_bytes()
    stored.write_bytes(content[: len(content) // 2])
    (tmp_path / "out" / "cases" / ".v2-half.npz").write_bytes(content[:99])
    seen.clear()
    assert_equal(make_run(volumes[:3]).run(), whole)
    assert seen == ["v1"]


def spoil(write_volume: WriteVolume, tmp_path: Path) -> list[Case]:
    """A good case and one of each kind that cannot be used."""
    good = write_volume("good", shape=(24, 24, 4))
    cut = tmp_path / "cut.nii.gz"
    content = good.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    zero = write_volume("zero", np.zeros((24, 24, 4), np.float32))
    values = nib.load(good).get_fdata().astype(np.float32)  # type: ignore[attr-defined]
    values[12, 12, 2] = np.nan
    nan = write_volume("nan", values)
    other = write_volume("other", shape=(24, 24, 5))
    named = {"a_cut": (cut,), "b_zero": (zero,), "c_good": (good,), "d_nan": (nan,)}
    cases = [Case(name, name, images) for name, images in named.items()]
    return [*cases, Case("e_shape", "e_shape", (good, other))]


def test_what_cannot_be_used_does_not_stop_the_rest(
    make_run: MakeRun, write_volume: WriteVolume, seen: list[str], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    cases = spoil(write_volume, tmp_path)
    gathered = make_run(cases).run()
    assert seen == ["c_good"] and {row.case for row in gathered.rows} == {"c_good"}
    told = failures_in(tmp_path / "out")
    assert list(told) == ["a_cut", "b_zero", "d_nan", "e_shape"]
    assert "cut.nii.gz" in told["a_cut"] and "cut off" in told["a_cut"]
    assert "found the value 0 everywhere" in told["b_zero"]
    assert "NaN" in told["d_nan"] and "nan.nii.gz" in told["d_nan"]
    assert "(24, 24, 5)" in told["e_shape"] and "(24, 24, 4)" in told["e_shape"]
    assert [failed.case.name for failed in gathered.failures] == list(told)
    for name, reason in told.items():
        assert f"{name}: left out. {reason}" in caplog.text
    left = {path.name for path in (tmp_path / "out" / "maps").iterdir()}
    assert left == {"c_good_anomaly.nii.gz", "c_good_mask.nii.gz"}


def test_mended_files_alone_are_scored_again(
    make_run: MakeRun, write_volume: WriteVolume, seen: list[str], tmp_path: Path
) -> None:
    cases = spoil(write_volume, tmp_path)[:3]
    make_run(cases).run()
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "good.nii.gz").read_bytes())
    seen.clear()
    again = make_run(cases)
    again.run()
    assert seen == ["a_cut"] and list(failures_in(tmp_path / "out")) == ["b_zero"]
    write_volume("zero", shape=(24, 24, 4), seed=5)
    seen.clear()
    gathered = again.run()
    assert seen == ["b_zero"] and gathered.failures == []
    assert not (tmp_path / "out" / "failures.csv").exists()
    assert [row.case for row in gathered.rows[::5]] == ["a_cut", "b_zero", "c_good"]
    assert_equal(gathered, make_run(cases, folder="fresh").run())


def test_a_spoilt_file_loses_its_old_result(
    make_run: MakeRun, volumes: list[Case], seen: list[str], tmp_path: Path
) -> None:
    make_run(volumes[:2]).run()
    volumes[1].images[0].write_bytes(gzip.compress(b"nothing"))
    gathered = make_run(volumes[:2]).run()
    assert {row.case for row in gathered.rows} == {"v0"} and seen == ["v0", "v1"]
    assert list(failures_in(tmp_path / "out")) == ["v1"]


def test_cases_stream_by(
    make_run: MakeRun, volumes: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[ScoredCase]] = []
    maps: list[weakref.ref[Any]] = []
    counts: list[int] = []
    genuine = scoring.score_cases

    def score(*args: Any) -> list[ScoredCase]:
        gc.collect()
        counts.append(sum(reference() is not None for reference in alive))
        found = genuine(*args)
        alive.extend(weakref.ref(one) for one in found)
        maps.extend(weakref.ref(one.canvas_maps["anomaly_map"]) for one in found)
        return found

    monkeypatch.setattr(scoring, "score_cases", score)
    run = make_run(volumes, save_maps=False)
    run.run()
    assert len(alive) == 6 and max(counts) <= AHEAD + 1  # and the engine's last output
    run.evaluator.state.output = run.evaluator.state.batch = None
    gc.collect()
    assert all(reference() is None for reference in (*alive, *maps))


def test_an_error_of_the_writer_ends_the_run(
    make_run: MakeRun, volumes: list[Case], seen: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    genuine = case_writer.write_maps

    def write(folder: Path, scored: ScoredCase, threshold: float) -> list[Path]:
        if scored.sample.case.name == "v2":
            raise OSError("no space left")
        return genuine(folder, scored, threshold)

    monkeypatch.setattr(case_writer, "write_maps", write)
    run = make_run(volumes)
    with pytest.raises(OSError, match="no space left"):
        run.run()
    assert "v2" in seen
    assert not any(one.name.startswith("writer") for one in threading.enumerate())
    stored = [path.stem for path in (tmp_path / "out" / "cases").iterdir()]
    assert {"v0", "v1"} <= set(stored) and "v2" not in stored
    finished = len(stored)
    seen.clear()
    monkeypatch.setattr(case_writer, "write_maps", genuine)
    assert_equal(make_run(volumes).run(), make_run(volumes, folder="whole").run())
    assert seen[0] == "v2" and len(seen) == 6 - finished + 6


@pytest.mark.parametrize(("per_batch", "workers"), [(4, 0), (1, 2)])
def test_batches_and_workers_do_not_matter(
    make_run: MakeRun, volumes: list[Case], per_batch: int, workers: int
) -> None:
    alone = make_run(volumes, folder="alone", save_maps=False).run()
    found = make_run(volumes, per_batch, workers, save_maps=False).run()
    assert [row.case for row in found.rows] == [row.case for row in alone.rows]
    for one, other in zip(found.rows, alone.rows, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_a_finished_run_can_be_run_again(
    make_run: MakeRun, volumes: list[Case], seen: list[str]
) -> None:
    run = make_run(volumes[:3], save_maps=False)
    first = run.run()
    os.utime(volumes[1].images[0], ns=(1, 1))
    seen.clear()
    assert_equal(run.run(), first)
    assert seen == ["v1"] and len(run.dataset.data) == 3

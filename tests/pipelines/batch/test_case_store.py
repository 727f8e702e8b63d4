"""When the stored result of a case counts no more."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.batch import writer as case_writer
from pipelines.batch.case_run import CaseRun, CaseStore
from pipelines.data.cases import Case
from pipelines.scoring.model_file import MODEL_NAME

WriteModel = Callable[..., dict[str, Any]]
MakeRun = Callable[..., CaseRun]


def test_another_model_file_invalidates_all(
    make_run: MakeRun, volumes: list[Case], seen: list[str], write_model: WriteModel
) -> None:
    make_run(volumes[:2]).run()
    seen.clear()
    write_model("models", notes=["trained again"])
    make_run(volumes[:2]).run()
    assert seen == ["v0", "v1"]


@pytest.mark.parametrize(
    "options",
    [
        {"save_maps": False},
        {"save_panels": True},
        {"further": (lambda scored, folder: [],)},
        {"loader": {"min_lesion_pixels": 5}},
        {"loader": {"normal_margin": 2}},
    ],
)
def test_other_options_invalidate_all(
    make_run: MakeRun, volumes: list[Case], seen: list[str], options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(case_writer, "save_panels", lambda *told: [])
    make_run(volumes[:2]).run()
    seen.clear()
    make_run(volumes[:2], **options).run()
    assert seen == ["v0", "v1"]


@pytest.mark.parametrize(
    "file", ["maps/v1_anomaly.nii.gz", "maps/v1_mask.nii.gz", "panels/v1.png", "cases/v1.npz"]
)
@pytest.mark.parametrize("how", ["lost", "damaged"])
def test_what_is_lost_or_damaged_is_made_again(
    make_run: MakeRun, volumes: list[Case], seen: list[str], tmp_path: Path, file: str, how: str
) -> None:
    path = tmp_path / "out" / file
    make_run(volumes[:2], save_panels=True).run()
    whole = path.read_bytes()
    seen.clear()
    if how == "lost":
        path.unlink()
    else:
        path.write_bytes(whole[:-9] + bytes(9))
    make_run(volumes[:2], save_panels=True).run()
    assert seen == ["v1"]
    assert len(path.read_bytes()) == len(whole)


@pytest.mark.parametrize("what", ["mask", "time", "label", "channels", "patient"])
def test_a_changed_case_is_scored_again(
    make_run: MakeRun, volumes: list[Case], seen: list[str], what: str, tmp_path: Path
) -> None:
    volumes = volumes[:2]
    make_run(volumes, save_maps=False).run()
    case = volumes[1]
    if what == "time":
        os.utime(case.images[0], ns=(1, 1))
    else:
        new: dict[str, Any] = {"mask": None, "label": 0, "channels": (0,), "patient": "other"}
        volumes[1] = replace(case, **{what: new[what]})
    seen.clear()
    gathered = make_run(volumes, save_maps=False).run()
    assert seen == ["v1"]
    if what == "patient":
        assert {row.patient for row in gathered.rows} == {"p0", "other"}


def test_files_in_a_folder_count_each(volumes: list[Case], tmp_path: Path) -> None:
    model = tmp_path / MODEL_NAME
    model.write_bytes(b"weights")
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"one")
    case = Case("s", "p", (series,))
    store = CaseStore(tmp_path / "cases", model)
    stamps = [store.stamp(case)]
    (series / "2.dcm").write_bytes(b"two")
    stamps.append(store.stamp(case))
    os.utime(series / "1.dcm", ns=(1, 1))
    stamps.append(store.stamp(case))
    stamps.append(CaseStore(tmp_path / "cases", model, ("other",)).stamp(case))
    model.write_bytes(b"Weights")
    stamps.append(CaseStore(tmp_path / "cases", model).stamp(case))
    assert len(set(stamps)) == 5
    other = replace(case, series_uid="1.2.3")
    assert CaseStore(tmp_path / "cases", model).stamp(other) not in stamps
    missing = replace(case, images=(tmp_path / "gone.nii.gz",))
    assert not store.done(missing)

"""The volumes that a report lets people scroll through."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from pipelines.batch import viewed
from pipelines.batch.viewed import MOST_VIEWED, viewer_volumes
from pipelines.data.cases import Case
from pipelines.metrics.rows import ScoreRow
from pipelines.outputs.maps import write_volume as write_map

WriteVolume = Callable[..., Path]
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


@pytest.fixture
def cases(
    write_volume: WriteVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """Five volumes with their maps; the third has a mask."""
    monkeypatch.setattr(viewed, "ViewerVolume", SimpleNamespace)
    mask = np.zeros((8, 9, 6), np.uint8)
    mask[2, 3, 4] = 5
    found = []
    for number in range(5):
        name = f"v{number}"
        path = write_volume(name, shape=(8, 9, 6), seed=number, affine=AFFINE)
        drawn = write_volume("mask", mask, affine=AFFINE) if number == 2 else None
        found.append(Case(name, name, (path,), mask=drawn))
        values = np.full((8, 9, 6), number, np.float32)
        write_map(tmp_path / "out" / "maps" / f"{name}_anomaly.nii.gz", values, AFFINE, {})
    read = SimpleNamespace(parameters={"axis": "coronal"})
    dataset = SimpleNamespace(data=found, read=read)
    return SimpleNamespace(save_maps=True, dataset=dataset, output_dir=tmp_path / "out")


def viewed_of(cases: Any, rows: list[ScoreRow]) -> list[Any]:
    gathered: Any = SimpleNamespace(rows=rows)
    return viewer_volumes(cases, gathered)


def row(number: int, score: float, level: Any = "volume", **more: Any) -> ScoreRow:
    known: dict[str, Any] = {"percentile": 90.0, "flagged": False, **more}
    return ScoreRow(f"v{number}", f"p{number}", level, None, None, score, **known)


def test_the_highest_volumes_are_shown_with_their_maps(cases: Any) -> None:
    scores = [1.0, 5.0, 3.0, 4.0, 2.0]
    rows = [row(n, score) for n, score in enumerate(scores)] + [row(0, 99.0, "slice")]
    found = viewed_of(cases, rows)
    assert [one.name for one in found] == ["v1", "v3", "v2"] and MOST_VIEWED == 3
    for one in found:
        number = int(one.name[1:])
        source: Any = nib.load(cases.dataset.data[number].images[0])
        assert (one.image == source.get_fdata().astype(np.float32)).all()
        assert one.anomaly_map.dtype == np.float32 and (one.anomaly_map == number).all()
        np.testing.assert_allclose(one.affine, AFFINE)
    assert [one.mask is None for one in found] == [True, True, False]
    assert found[2].mask.dtype == bool and np.argwhere(found[2].mask).tolist() == [[2, 3, 4]]


def test_slices_keep_their_scores(cases: Any) -> None:
    slices = [replace(row(n, 10.0 * n + k, "slice"), slice=k) for n in (0, 1) for k in (2, 4)]
    found = viewed_of(cases, [*slices, row(0, 1.0), row(1, 2.0)])
    assert [one.slice_scores for one in found] == [{2: 12.0, 4: 14.0}, {2: 2.0, 4: 4.0}]
    assert {one.slice_axis for one in found} == {"coronal"}


def test_captions_tell_the_decision(cases: Any) -> None:
    rows = [
        row(0, 3.456, flagged=True),
        row(1, 2.0),
        row(2, 1.0, flagged=None, percentile=None),
    ]
    assert [one.caption for one in viewed_of(cases, rows)] == [
        "score 3.46, above 90 % of the held-out normal volumes, flagged",
        "score 2.00, above 90 % of the held-out normal volumes",
        "score 1.00",
    ]


def test_volumes_are_read_as_they_were_scored(cases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of several series of a folder; modalities that were brought onto one grid."""
    asked: list[dict[str, Any]] = []
    genuine = viewed.read_case

    def read(images: Any, channels: Any, **how: Any) -> Any:
        asked.append(how)
        return genuine(images, channels)

    monkeypatch.setattr(viewed, "read_case", read)
    cases.dataset.data[0] = replace(cases.dataset.data[0], series_uid="1.2.3")
    viewed_of(cases, [row(0, 1.0)])
    assert asked == [{"resample": True, "series_uid": "1.2.3"}]


def test_without_maps_there_is_nothing_to_show(cases: Any) -> None:
    cases.save_maps = False
    assert viewed_of(cases, [row(0, 1.0)]) == []
    cases.save_maps = True
    assert viewed_of(cases, []) == []

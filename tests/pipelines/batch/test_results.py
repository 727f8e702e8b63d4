"""What is kept of a scored case."""

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from networks import Part
from pipelines.batch.results import (
    CaseResult,
    case_result,
    case_rows,
    is_whole,
    load_result,
    save_result,
    volume_label,
)
from pipelines.data.baselines import BASELINES
from pipelines.data.cases import Case
from pipelines.data.slices import CaseLoader
from pipelines.outputs.examples import candidates
from pipelines.scoring.cases import ScoredCase
from pipelines.scoring.volume import case_score
from transforms.errors import InputError

WriteVolume = Callable[..., Path]
FakeScored = Callable[..., ScoredCase]
LOADER = CaseLoader(32, with_baselines=True)


@pytest.fixture
def volume(write_volume: WriteVolume) -> Case:
    """Slices 3 and 4 show a lesion; 1 shows too little of one."""
    mask = np.zeros((24, 24, 5), dtype=np.uint8)
    mask[8, 8, 1] = 1
    mask[6:12, 6:12, 3:] = 1
    image = write_volume("a", shape=(24, 24, 5))
    return Case("a", "pa", (image,), mask=write_volume("mask", mask))


@pytest.fixture
def picture(tmp_path: Path) -> Case:
    levels = np.random.default_rng(0).integers(1, 256, (24, 24), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "b.png")
    return Case("b", "pb", (tmp_path / "b.png",), label=0)


def test_a_volume_has_a_row_per_slice_and_one_for_the_whole(
    volume: Case, fake_scored: FakeScored
) -> None:
    sample = LOADER(volume)
    scored = fake_scored(
        sample, [1.0, 2.0, 3.0, 4.0, 5.0], score=7.0, parts={"flow": 1.0, "head": 0.25}
    )
    *slices, whole = case_rows(scored)
    assert [(row.slice, row.label) for row in slices] == [
        (0, 0), (1, None), (2, 0), (3, 1), (4, 1),
    ]  # fmt: skip
    assert {row.level for row in slices} == {"slice"} and whole.level == "volume"
    assert [row.flagged for row in slices] == [False, False, False, True, True]
    assert [row.score for row in slices] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [row.parts for row in slices] == [
        {"flow": score + 1, "recon": score - 1} for score in (1.0, 2.0, 3.0, 4.0, 5.0)
    ]
    assert all((row.case, row.patient) == ("a", "pa") for row in (*slices, whole))
    assert whole.slice is None and whole.label == 1 and whole.flagged is True
    assert whole.score == 7.0 and whole.percentile == 50.0
    assert whole.parts == {"flow": 1.0, "head": 0.25}
    assert sample.baselines is not None
    for name in BASELINES:
        values = sample.baselines.scores[name]
        assert [row.baselines[name] for row in slices] == values.tolist()
        assert whole.baselines[name] == case_score(values)
    json.dumps([vars(row) for row in (*slices, whole)])


def test_what_is_undecided_is_empty(volume: Case, fake_scored: FakeScored) -> None:
    sample = replace(LOADER(volume), baselines=None)
    undecided: dict[str, Any] = {"percentile": None, "flagged": None}
    *_, whole = case_rows(fake_scored(sample, **undecided))
    assert whole.percentile is None and whole.flagged is None and whole.baselines == {}
    cells = whole.cells()
    assert cells["percentile"] == "" and cells["flagged"] == ""
    assert "head_score" not in cells and not set(BASELINES) & set(cells)


def test_a_picture_has_one_row(picture: Case, fake_scored: FakeScored) -> None:
    (row,) = case_rows(fake_scored(LOADER(picture), [9.0]))
    assert row.level == "image" and (row.slice, row.label) == (0, 0)
    assert row.score == 9.0 and row.flagged is True
    (unknown,) = case_rows(fake_scored(LOADER(replace(picture, label=None))))
    assert unknown.label is None


def test_a_volume_is_anomalous_with_one_slice(volume: Case, write_volume: WriteVolume) -> None:
    def label_of(mask: np.ndarray | None, label: int | None = None) -> int | None:
        path = None if mask is None else write_volume("other", mask)
        return volume_label(LOADER(replace(volume, mask=path, label=label)))

    empty = np.zeros((24, 24, 5), dtype=np.uint8)
    little, enough = empty.copy(), empty.copy()
    little[8, 8, 1] = 1
    enough[6:12, 6:12, 3] = 1
    assert [label_of(mask) for mask in (None, empty, little, enough)] == [None, 0, None, 1]
    assert [label_of(None, label) for label in (0, 1)] == [0, 1]
    assert label_of(enough, 0) == 0


def test_pixels_of_judged_slices_count_inside_the_body(
    volume: Case, picture: Case, fake_scored: FakeScored
) -> None:
    sample = LOADER(volume)
    values = np.random.default_rng(0).normal(size=(5, 24, 24)).astype(np.float32)
    result = case_result(fake_scored(sample, anomaly_map=values), 0.77)
    assert result.examples == [] and len(result.rows) == 6
    assert result.pixels.patients == result.baseline_pixels["intensity"].patients == ("pa",)
    pixels, regions = result.pixels.arrays()
    body = int(sample.body[0].sum())
    lesion = 2 * 36
    assert pixels[0].sum(axis=1).tolist() == [4 * body - lesion, lesion]
    assert regions.sum(axis=1).tolist() == pytest.approx([2])
    assert (result.pixels.edges == 0.77).any()  # decisions are exact
    judged = [0, 2, 3, 4]
    above = int((values[judged][sample.body[judged].numpy()] > 0.77).sum())
    first = int(np.flatnonzero(result.pixels.edges == 0.77)[0])
    assert pixels[0][:, first:].sum() == above
    unknown = replace(sample, labels=torch.full_like(sample.labels, -1))
    assert case_result(fake_scored(unknown, anomaly_map=values), 0.77).pixels.patients == ()
    whole = case_result(fake_scored(LOADER(picture)), 1.0)
    assert whole.pixels.arrays()[0][0].sum(axis=1).tolist() == [24 * 24, 0]
    assert whole.baseline_pixels == {}


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_pixels_of_the_body_count_whatever_their_value(
    kind: str, write_volume: WriteVolume, fake_scored: FakeScored
) -> None:
    values = np.full((24, 24, 4), -1000, np.float32)  # air around fat, below 0 HU too
    values[4:20, 4:20] = np.random.default_rng(0).normal(-100, 10, (16, 16, 4))
    if kind == "mr":  # a body in noise above 0
        values = np.abs(np.random.default_rng(1).normal(0, 2, (24, 24, 4))).astype(np.float32) + 1
        values[4:20, 4:20] += 100
    mask = np.zeros((24, 24, 4), np.uint8)
    mask[6:12, 6:12, 2:] = 1
    case = Case("a", "pa", (write_volume("a", values),), mask=write_volume("mask", mask))
    scored = fake_scored(LOADER(case), anomaly_map=np.zeros((4, 24, 24), np.float32))
    result = case_result(scored, 1.0)
    for histogram in (result.pixels, result.baseline_pixels["intensity"]):
        counted = histogram.arrays()[0][0].sum(axis=1).tolist()
        assert counted == [4 * 16 * 16 - 2 * 36, 2 * 36]


def test_a_part_that_is_a_trivial_score_is_a_baseline(
    volume: Case, fake_scored: FakeScored
) -> None:
    part = Part("recon", ("recon",), baseline="usual")
    scored = replace(fake_scored(LOADER(volume)), baselines={"usual": part})
    result = case_result(scored, 1.0)
    assert [row.baselines["usual"] for row in result.rows[:5]] == [-1.0, 0.0, 1.0, 2.0, 3.0]
    counted = result.baseline_pixels["usual"].arrays()[0][0].sum()
    assert counted == result.pixels.arrays()[0][0].sum() > 0
    unseen = replace(scored, sample=replace(scored.sample, baselines=None))
    assert "usual" not in case_result(unseen, 1.0).rows[0].baselines


def test_without_a_mask_no_pixels_count(picture: Case, fake_scored: FakeScored) -> None:
    for label in (1, None):
        result = case_result(fake_scored(LOADER(replace(picture, label=label))), 1.0)
        assert result.pixels.patients == ()


@pytest.fixture
def result(volume: Case, fake_scored: FakeScored) -> CaseResult:
    values = np.random.default_rng(0).normal(size=(5, 24, 24))
    scored = fake_scored(LOADER(volume), [1.0, 2.0, 3.0, 4.0, 3.0], values)
    kept = case_result(scored, 1.0)
    kept.examples = candidates(scored)
    return kept


def test_a_stored_result_comes_back(result: CaseResult, tmp_path: Path) -> None:
    path = tmp_path / "cases" / "a.npz"
    save_result(path, result, "stamp")
    assert is_whole(path, "stamp") and not is_whole(path, "another")
    again = load_result(path)
    assert again.rows == result.rows
    assert again.thumbnail == result.thumbnail and again.thumbnail.startswith(b"\xff\xd8")
    assert again.baseline_pixels.keys() == result.baseline_pixels.keys() == {"intensity"}
    for old_pixels, new_pixels in (
        (result.pixels, again.pixels),
        (result.baseline_pixels["intensity"], again.baseline_pixels["intensity"]),
    ):
        before, after = old_pixels.state_dict(), new_pixels.state_dict()
        assert all(np.array_equal(before[key], after[key]) for key in before)
    assert [one.kind for one in again.examples] == ["detected", "missed"]
    for old, new in zip(result.examples, again.examples, strict=True):
        facts = [(one.kind, one.case, one.index, one.score) for one in (old, new)]
        assert facts[0] == facts[1] and new.image.dtype == np.float32
        np.testing.assert_allclose(new.image, old.image, atol=1e-3)
        assert old.reconstruction is not None and new.reconstruction is not None
        np.testing.assert_allclose(new.reconstruction, old.reconstruction, atol=1e-2)
        assert list(new.maps) == list(old.maps) == ["anomaly_map", "recon"]
        np.testing.assert_allclose(new.maps["recon"], old.maps["recon"], atol=1e-2)
        assert old.mask is not None and new.mask is not None
        assert (new.mask == old.mask).all() and new.mask.dtype == bool
    bare = replace(result.examples[0], mask=None)
    save_result(path, replace(result, examples=[bare]), "stamp")
    assert load_result(path).examples[0].mask is None
    unrestored = replace(bare, reconstruction=None)
    save_result(path, replace(result, examples=[unrestored]), "stamp")
    assert load_result(path).examples[0].reconstruction is None


def test_what_is_cut_short_damaged_or_foreign_is_not_whole(
    result: CaseResult, tmp_path: Path
) -> None:
    path = tmp_path / "cases" / "a.npz"
    assert not is_whole(path, "stamp")
    save_result(path, result, "stamp")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    for content in (whole[: len(whole) // 2], bytes(flipped), b"", b"something else"):
        path.write_bytes(content)
        assert not is_whole(path, "stamp")
    np.savez(path, other=np.zeros(1))
    assert not is_whole(path, "stamp")
    np.savez(path, stamp="stamp", files="{}")  # as an earlier version kept it, without a picture
    assert not is_whole(path, "stamp")
    np.savez(path, facts='{"stamp": "stamp", "files": {}}')  # as a later one kept it
    assert not is_whole(path, "stamp")


def test_a_result_is_whole_with_its_files_alone(result: CaseResult, tmp_path: Path) -> None:
    path, maps = tmp_path / "cases" / "a.npz", tmp_path / "maps"
    maps.mkdir()
    files = [maps / "a_anomaly.png", maps / "a_mask.png"]
    for file in files:
        file.write_bytes(b"values")
    save_result(path, result, "stamp", files)
    assert is_whole(path, "stamp")
    files[0].write_bytes(b"volues")
    assert not is_whole(path, "stamp")
    files[0].write_bytes(b"values")
    files[1].unlink()
    assert not is_whole(path, "stamp")


def test_a_failing_write_leaves_no_result(
    result: CaseResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*told: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(InputError, match=r"a\.npz.* \(no space left\)\. Free some space"):
        save_result(tmp_path / "cases" / "a.npz", result, "stamp")
    assert list((tmp_path / "cases").iterdir()) == []


def test_an_unlabelled_case_offers_its_highest_slice(
    volume: Case, fake_scored: FakeScored, tmp_path: Path
) -> None:
    scored = fake_scored(LOADER(replace(volume, mask=None)), [1.0, 9.0, 2.0, 3.0, 4.0])
    (found,) = candidates(scored)
    assert (found.kind, found.index, found.mask) == ("scored", 1, None)
    assert torch.equal(scored.sample.labels, torch.full((5,), -1, dtype=torch.int8))

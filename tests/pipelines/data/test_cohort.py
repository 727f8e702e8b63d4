"""Opening data sets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.data import cohort as data
from pipelines.data.cases import Case, Cohort
from pipelines.data.cohort import (
    PHANTOM_NOTE,
    Data,
    count_channels,
    open_data,
    open_data_like,
    seen_content,
)
from pipelines.data.splits import Split
from transforms.errors import InputError

PATIENTS = 8


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    """Two pictures each of eight normal patients, one of each of three anomalous ones."""
    wanted = [(f"n{patient}", number, 0) for patient in range(PATIENTS) for number in range(2)]
    wanted += [(f"a{patient}", 0, 1) for patient in range(3)]
    cases = []
    for patient, number, label in sorted(wanted):
        path = tmp_path / f"{patient}_{number}.png"
        path.write_text(f"pixels of {path.stem}")
        cases.append(Case(path.stem, patient, (path,), label=label))
    cohort = Cohort("folder", tmp_path, tuple(cases), ("image",), False, notes=("mind this",))
    monkeypatch.setattr(data, "read_cohort", lambda *args, **kwargs: cohort)
    return cohort


def model_of(opened: Data) -> dict[str, Any]:
    return {
        "notes": list(opened.notes),
        "modalities": list(opened.cohort.modalities),
        "split": opened.split.as_dict(),
        "volumetric": opened.cohort.volumetric,
        "seen": seen_content(opened),
    }


def names(opened: Data) -> set[str]:
    return {case.name for case in opened.split.test}


def test_patients_are_divided(cohort: Cohort) -> None:
    opened = open_data("set", seed=3)
    sides = [set(opened.split.patients(part)) for part in ("train", "calibration", "test")]
    assert all(sides) and sum(map(len, sides)) == len(set().union(*sides)) == PATIENTS + 3
    assert {"a0", "a1", "a2"} <= sides[2]
    again = open_data("set", seed=3)
    assert again.split == opened.split and again.fingerprint == opened.fingerprint


def test_the_fingerprint_tells_other_data_and_other_splits(cohort: Cohort) -> None:
    opened = open_data("set")
    assert len(opened.fingerprint) == 16
    assert open_data("set", seed=5).fingerprint != opened.fingerprint
    changed = opened.split.train[0].images[0]
    before = opened.fingerprint
    changed.write_text("more pixels")
    assert open_data("set").fingerprint != before


def test_without_a_folder_the_phantoms_are_made(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def read(root: str, layout: str, modalities: Any, **kwargs: Any) -> Cohort:
        asked.append((root, layout))
        return cohort

    monkeypatch.setattr(data, "ensure_phantom_dataset", lambda: tmp_path)
    monkeypatch.setattr(data, "read_cohort", read)
    opened = open_data(None, layout="folder")
    assert asked == [(str(tmp_path), "brats")]
    assert PHANTOM_NOTE in opened.notes
    evaluated = open_data_like(model_of(opened))
    assert PHANTOM_NOTE in evaluated.notes and names(evaluated) == names(opened)


def test_a_model_is_evaluated_on_its_own_test_part(cohort: Cohort) -> None:
    opened = open_data("set")
    evaluated = open_data_like(model_of(opened), "set")
    assert evaluated.split.test == opened.split.test
    assert not evaluated.split.train and not evaluated.split.calibration
    assert any("cases left out" in note for note in evaluated.notes)


def test_no_patient_that_the_model_has_seen_is_evaluated(cohort: Cohort) -> None:
    opened = open_data("set")
    model = model_of(opened)
    seen = opened.split.train[0]
    # Of one training patient the model has seen a single picture; other test cases are gone.
    model["split"]["train"] = [seen.name]
    model["split"]["test"] = ["a case of another folder"]
    model["seen"] = []
    evaluated = open_data_like(model, "set")
    calibration = {case.patient for case in opened.split.calibration}
    expected = {
        case.name
        for case in opened.cohort.cases
        if case.patient != seen.patient and case.patient not in calibration
    }
    assert names(evaluated) == expected


def test_other_data_are_evaluated_whole(cohort: Cohort) -> None:
    opened = open_data("set")
    model = model_of(opened)
    model["split"] = {"train": ["b1"], "calibration": ["b2"], "test": ["b3"]}
    model["seen"] = ["0123456789abcdef"]
    evaluated = open_data_like(model, "set")
    assert names(evaluated) == {case.name for case in opened.cohort.cases}
    assert not any("left out" in note for note in evaluated.notes)


@pytest.mark.parametrize("normal", [True, False])
def test_a_test_part_with_normal_cases_is_evaluated_alone(normal: bool, tmp_path: Path) -> None:
    """The training images of another model's folder are not for testing this one."""
    for name in ("train/normal/a", "train/normal/b", "test/normal/c", "test/anomalous/d"):
        path = tmp_path / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    if not normal:
        (tmp_path / "set" / "test" / "normal" / "c.png").unlink()
    nothing: dict[str, list[str]] = {"train": [], "calibration": [], "test": []}
    model = {"notes": [], "modalities": ["image"], "split": nothing, "volumetric": False}
    evaluated = open_data_like(model, str(tmp_path / "set"))
    assert names(evaluated) == ({"c", "d"} if normal else {"a", "b", "d"})
    told = [note for note in evaluated.notes if "not for testing" in note]
    assert [note.split()[0] for note in told] == (["2"] if normal else [])


def test_every_case_but_the_model_s_own_is_evaluated(cohort: Cohort) -> None:
    opened = open_data("set")
    model = model_of(opened)
    model["split"]["test"] = model["split"]["test"][:1]  # the data set has grown since
    own = {*model["split"]["train"], *model["split"]["calibration"]}
    evaluated = open_data_like(model, "set")
    assert names(evaluated) == {case.name for case in cohort.cases} - own
    skipped = [note for note in evaluated.notes if "left out" in note]
    told = "cases left out: the model has seen them, or they are not for testing."
    assert len(own) > 10 and skipped == [f"{len(own)} {told}"]


def test_seen_files_are_known_by_any_name(cohort: Cohort, tmp_path: Path) -> None:
    """A training picture that was copied under another name, and its patient, are left out."""
    opened = open_data("set")
    model = model_of(opened)
    expected = names(open_data_like(model, "set"))
    renamed = {part: [f"other {name}" for name in own] for part, own in model["split"].items()}
    assert names(open_data_like(model | {"split": renamed}, "set")) == expected
    files = {path for case in (*opened.split.train, *opened.split.calibration)
             for path in case.images}  # fmt: skip
    assert len(model["seen"]) == len(files) and model["seen"] == sorted(model["seen"])
    first = opened.split.train[0]
    alone = replace(opened, split=replace(opened.split, train=(first,), calibration=()))
    partly = open_data_like(
        model | {"split": {"train": [], "calibration": []}, "seen": seen_content(alone)}, "set"
    )
    assert {case.patient for case in opened.cohort.cases} - {
        case.patient for case in partly.split.test
    } == {first.patient}


def test_files_are_told_apart_by_what_they_show(tmp_path: Path) -> None:
    """Uncompressed volumes of one size all begin with the same header and background."""
    background = bytes(300_000)
    contents = {
        "a.nii": background + b"one" + background,
        "b.nii": background + b"two" + background,
        "c.nii": b"patient" + bytes(599_996),
        "d.nii": background + b"one" + background,
    }
    found = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        case = Case(name, name, (tmp_path / name,))
        cohort = Cohort("folder", tmp_path, (case,), ("image",), True)
        found += seen_content(Data(cohort, Split((case,), (), ()), ()))
    assert found[0] == found[3] and len(set(found)) == 3
    series = tmp_path / "series"
    series.mkdir()
    for number, name in enumerate(("a.nii", "b.nii")):
        (series / f"{number}.dcm").write_bytes(contents[name])
    case = Case("s", "s", (series, tmp_path / "gone.nii"))
    cohort = Cohort("folder", tmp_path, (case,), ("image",), True)
    assert seen_content(Data(cohort, Split((), (case,), ()), ())) == sorted([found[0], "none"])


def listed(opened: Data) -> list[str]:
    return [case.name for case in opened.split.test]


@pytest.mark.parametrize("form", ["a0_0,a2_0", "a2_0, a0_0", ["a2_0", "a0_0"], ("a0_0", "a2_0")])
def test_cases_can_be_named(cohort: Cohort, form: Any) -> None:
    evaluated = open_data_like(model_of(open_data("set")), "set", cases=form)
    assert listed(evaluated) == ["a0_0", "a2_0"]


def test_a_number_names_a_case_too(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = model_of(open_data("set"))
    numbered = tuple(replace(cohort.cases[0], name=name, patient=name) for name in ("7", "8"))
    found = replace(cohort, cases=numbered)
    monkeypatch.setattr(data, "read_cohort", lambda *args, **kwargs: found)
    forms: list[Any] = [8, [7, 8]]  # as the command line gives them
    assert [listed(open_data_like(model, "set", cases=form)) for form in forms] == [
        ["8"],
        ["7", "8"],
    ]


def test_an_unknown_case_is_told_with_the_nearest(cohort: Cohort) -> None:
    opened = open_data("set")
    model = model_of(opened)
    with pytest.raises(InputError, match=r"cases: 'a0_1' is not .* Did you mean 'a0_0'\?"):
        open_data_like(model, "set", cases="a0_1")
    seen = opened.split.train[0].name
    with pytest.raises(InputError, match=f"cases: '{seen}' is not among"):
        open_data_like(model, "set", cases=["a0_0", seen])


def test_the_first_cases_alone_are_evaluated(cohort: Cohort) -> None:
    model = model_of(open_data("set"))
    everything = listed(open_data_like(model, "set"))
    for limit in (1, 2, 1000):
        assert listed(open_data_like(model, "set", limit=limit)) == everything[:limit]
    both = open_data_like(model, "set", cases="a1_0,a2_0", limit=1)
    assert listed(both) == ["a1_0"]
    for wrong in (0, -1, 1.5, "many"):
        with pytest.raises(InputError, match="limit: expected a number of cases from 1, found"):
            open_data_like(model, "set", limit=wrong)  # type: ignore[arg-type]


def test_a_split_file_chooses_what_is_evaluated(cohort: Cohort, tmp_path: Path) -> None:
    opened = open_data("set")
    split = opened.split.as_dict()
    split["test"] = split["test"][:2]
    path = tmp_path / "split.json"
    path.write_text(str(split).replace("'", '"'))
    assert names(open_data_like(model_of(opened), "set", split=str(path))) == set(split["test"])


def test_nothing_left_to_evaluate_is_told(cohort: Cohort) -> None:
    opened = open_data("set")
    model = model_of(opened)
    model["split"]["train"] = [case.name for case in opened.cohort.cases]
    with pytest.raises(InputError, match="dataset_dir: all .* Evaluate on other patients"):
        open_data_like(model, "set")


def test_a_model_of_ones_own_data_needs_a_folder(cohort: Cohort) -> None:
    with pytest.raises(InputError, match="dataset_dir: this model was trained on data of your own"):
        open_data_like(model_of(open_data("set")))


def test_other_channels_are_refused(cohort: Cohort) -> None:
    model = model_of(open_data("set")) | {"modalities": ["flair", "t2"]}
    with pytest.raises(InputError, match="modalities: the model reads flair, t2, found image"):
        open_data_like(model, "set")


@pytest.mark.parametrize("volumetric", [True, False])
def test_files_of_the_other_kind_are_refused(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch, volumetric: bool
) -> None:
    model = model_of(open_data("set")) | {"volumetric": not volumetric}
    found = replace(cohort, volumetric=volumetric)
    monkeypatch.setattr(data, "read_cohort", lambda *args, **kwargs: found)
    kinds = ("pictures", "volumes") if volumetric else ("volumes", "pictures")
    with pytest.raises(InputError, match=f"was trained on {kinds[0]}, but .* holds {kinds[1]}"):
        open_data_like(model, "set")


def test_the_models_modalities_are_asked_for(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(open_data("set")) | {"modalities": ["t1"]}
    asked: list[Any] = []

    def read(root: str, layout: str, modalities: Any, **kwargs: Any) -> Cohort:
        asked.append(modalities)
        return replace(cohort, modalities=tuple(modalities))

    monkeypatch.setattr(data, "read_cohort", read)
    open_data_like(model, "set")
    open_data_like(model, "set", modalities=["t2"])
    assert asked == [["t1"], ["t2"]]


def test_notes_travel_along(cohort: Cohort) -> None:
    opened = open_data("set")
    assert "mind this" in opened.notes
    assert "mind this" in open_data_like(model_of(opened), "set").notes


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({"modalities": "flair, t2"}, 2),
        ({"modalities": ["flair"]}, 1),
        ({"channels": 3, "modalities": "image"}, 3),
    ],
)
def test_channels_are_counted_without_a_file(options: dict[str, Any], count: int) -> None:
    assert count_channels(**options) == count

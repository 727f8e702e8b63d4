import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.cases import Case, Cohort
from pipelines.data.splits import Split, assert_disjoint, split_cohort
from transforms.errors import InputError

SIDES = ("train", "calibration", "test")


def case(name, patient, label=0, split=None, mask=False) -> Case:
    return Case(name, patient, (Path(f"{name}.x"),), label, Path("m") if mask else None, split)


def cohort(cases, volumetric=False) -> Cohort:
    return Cohort("list", Path("."), tuple(cases), ("image",), volumetric)


def volumes(patients: int, per_patient: int = 1) -> Cohort:
    cases = [
        case(f"v{p:02d}_{i}", f"p{p:02d}", None, mask=True)
        for p in range(patients)
        for i in range(per_patient)
    ]
    return cohort(cases, volumetric=True)


def pictures() -> Cohort:
    train = [case(f"t{i:02d}", f"p{i // 2}", 0, "train") for i in range(20)]
    test = [case("n0", "n0", 0, "test"), case("a0", "a0", 1, "test"), case("a1", "n0", 1, "test")]
    return cohort([*train, *test])


@st.composite
def cohorts(draw):
    rows = draw(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=12, max_size=60))
    cases = [case(f"c{i}", f"p{p}", int(sick)) for i, (p, sick) in enumerate(rows)]
    return cohort(cases)


@settings(deadline=None, max_examples=60)
@given(cohorts(), st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_splits_are_disjoint_complete_and_repeatable(drawn, seed, shuffler):
    sick = {c.patient for c in drawn.cases if c.label == 1}
    healthy = {c.patient for c in drawn.cases} - sick
    if len(healthy) < 3:
        with pytest.raises(InputError):
            split_cohort(drawn, seed=seed)
        return
    split = split_cohort(drawn, seed=seed)
    patients = [set(split.patients(side)) for side in SIDES]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert all(patients)
    assert all(c.label == 0 for c in (*split.train, *split.calibration))
    assert sick <= set(split.patients("test"))
    names = Counter(name for part in split.as_dict().values() for name in part)
    assert names == Counter(c.name for c in drawn.cases)
    shuffled = list(drawn.cases)
    shuffler.shuffle(shuffled)
    assert split_cohort(replace(drawn, cases=tuple(shuffled)), seed=seed) == split


def test_volumes_are_divided_by_the_fractions():
    split = split_cohort(volumes(10, per_patient=3))
    assert [len(split.patients(side)) for side in SIDES] == [6, 2, 2]
    assert [len(split.cases(side)) for side in SIDES] == [18, 6, 6]
    assert split.notes == ()


@pytest.mark.parametrize("patients", range(3, 9))
def test_every_side_gets_a_patient(patients):
    split = split_cohort(volumes(patients), fractions=(0.05, 0.05, 0.9))
    assert all(split.cases(side) for side in SIDES)


def test_the_seed_matters():
    splits = {tuple(split_cohort(volumes(12), seed=seed).patients("test")) for seed in range(8)}
    assert len(splits) > 4


def test_a_known_draw_stays_the_same():
    split = split_cohort(volumes(10), seed=7)
    assert split.patients("calibration") == ("p07", "p09")
    assert split.patients("test") == ("p04", "p05")


def test_test_fraction_may_be_zero():
    split = split_cohort(volumes(5), fractions=(0.8, 0.2, 0))
    assert split.test == () and len(split.train) == 4


def test_too_few_patients():
    with pytest.raises(InputError, match="at least 3 patients in the data set.*found 2"):
        split_cohort(volumes(2, per_patient=5))


@pytest.mark.parametrize(
    "fractions",
    [(0.5, 0.5), (0.5, 0.2, 0.2), (1.2, -0.4, 0.2), (1, 0, 0), (0, 0.5, 0.5), ("a", 0, 1), 0.6],
)
def test_bad_fractions(fractions):
    with pytest.raises(InputError, match="fractions: expected three shares"):
        split_cohort(volumes(9), fractions=fractions)


def test_fixed_train_is_divided_by_patient_and_test_kept():
    split = split_cohort(pictures())
    assert [c.name for c in split.test] == ["a0", "a1", "n0"]
    assert len(split.patients("train")) == 8 and len(split.patients("calibration")) == 2
    assert len(split.train) == 16


def test_fixed_calibration_leaves_train_whole():
    given_cohort = pictures()
    with_calibration = replace(
        given_cohort, cases=(*given_cohort.cases, case("c0", "c0", 0, "calibration"))
    )
    split = split_cohort(with_calibration)
    assert [c.name for c in split.calibration] == ["c0"] and len(split.train) == 20


def test_normals_are_held_out_when_the_test_has_none():
    cases = [c for c in pictures().cases if c.name not in ("n0", "a1")]
    split = split_cohort(cohort(cases))
    assert len(split.patients("train")) == 6 and len(split.patients("calibration")) == 2
    assert sum(c.label == 0 for c in split.test) == 4
    assert any("held out for the test" in note for note in split.notes)
    without = split_cohort(cohort(cases), fractions=(0.8, 0.2, 0))
    assert all(c.label == 1 for c in without.test)
    assert any("the test fraction is 0" in note for note in without.notes)


def test_training_alone_needs_no_test():
    split = split_cohort(cohort([case(f"t{i}", f"p{i}", 0, "train") for i in range(5)]))
    assert split.test == () and len(split.calibration) == 1


def test_patient_on_both_sides_of_a_fixed_split():
    cases = [*pictures().cases, case("again", "p3", 1, "test")]
    with pytest.raises(InputError, match=r"1 patient on two sides: p3 \(train and test\)"):
        split_cohort(cohort(cases))


def test_anomalous_case_fixed_to_train():
    with pytest.raises(InputError, match="may hold normal cases"):
        split_cohort(cohort([*pictures().cases, case("x", "x", 1, "train")]))


def test_unlabelled_cases_are_left_out_with_a_note():
    cases = [*volumes(6).cases, case("bare", "p99", None)]
    split = split_cohort(cohort(cases, volumetric=True))
    assert "p99" not in {p for side in SIDES for p in split.patients(side)}
    assert any("bare" in note for note in split.notes)


def test_pictures_known_by_their_mask_alone_never_train():
    cases = [*pictures().cases, case("m", "m", None, mask=True)]
    assert "m" in split_cohort(cohort(cases)).patients("test")


def test_assert_disjoint_names_patients_and_sides():
    both = Split((case("a", "p1"),), (case("b", "p1"),), (case("c", "p2"),))
    with pytest.raises(InputError, match=r"p1 \(train and calibration\)"):
        assert_disjoint(both)
    assert_disjoint(Split((case("a", "p1"),), (), (case("c", "p2"),)))


def write(path: Path, content) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_saved_split_gives_the_same_split(tmp_path):
    drawn = volumes(8, per_patient=2)
    split = split_cohort(drawn, seed=5)
    path = write(tmp_path / "split.json", split.as_dict())
    assert split_cohort(drawn, seed=random.randint(0, 99), split_file=path) == split


def test_split_file_takes_patients_and_notes_the_missing(tmp_path):
    drawn = volumes(5, per_patient=2)
    content = {"train": ["p00", "p01"], "calibration": ["v02_0"], "test": ["p03"]}
    split = split_cohort(drawn, split_file=str(write(tmp_path / "s.json", content)))
    assert split.as_dict() == {
        "train": ["v00_0", "v00_1", "v01_0", "v01_1"],
        "calibration": ["v02_0"],
        "test": ["v03_0", "v03_1"],
    }
    assert "3 cases not named in the split file left out: v02_1, v04_0, v04_1." in split.notes


def test_split_file_against_the_sets_own_split_is_noted(tmp_path):
    content = {"train": ["p0", "n0"], "calibration": ["p1"], "test": ["a0"]}
    split = split_cohort(pictures(), split_file=write(tmp_path / "s.json", content))
    assert any("moves 1 case" in note for note in split.notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["v00_0"], "calibration": ["v00_1"], "test": []}, r"p00 \(train and calibr"),
        ({"train": ["p00"], "calibration": ["p01"], "test": ["p77"]}, "1 name unknown.*p77"),
        ({"train": ["p00"], "calibration": ["p01"]}, "found train, calibration"),
        ({"train": ["p00"], "calibration": ["p01"], "test": [], "x": []}, "test, x"),
        ({"train": ["p00"], "calibration": "p01", "test": []}, "not all of them lists"),
        ({"train": ["p00"], "calibration": [], "test": []}, "calibration is empty"),
        (["p00"], "found list"),
    ],
)
def test_bad_split_files(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        split_cohort(volumes(4, 2), split_file=write(tmp_path / "split.json", content))


def test_split_file_missing_malformed_or_with_cases_of_no_use(tmp_path):
    with pytest.raises(InputError, match="expected a JSON file"):
        split_cohort(volumes(4), split_file=tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="expected a JSON file"):
        split_cohort(volumes(4), split_file=tmp_path / "bad.json")
    bare = cohort([*volumes(3).cases, case("bare", "p99", None)], volumetric=True)
    content = {"train": ["p00"], "calibration": ["p01"], "test": ["bare"]}
    with pytest.raises(InputError, match="neither label nor mask: bare"):
        split_cohort(bare, split_file=write(tmp_path / "s.json", content))


def test_split_file_with_anomalous_training_cases(tmp_path):
    content = {"train": ["p0", "a0"], "calibration": ["p1"], "test": []}
    with pytest.raises(InputError, match="1 other case: a0"):
        split_cohort(pictures(), split_file=write(tmp_path / "s.json", content))

"""Folders of signals: how they are recognised, their labels and patients."""

import pytest

from pipelines.data.layouts import holds_signals, read_cohort
from transforms.errors import InputError

TABLE = "time,value\n0,1\n1,2\n2,3\n"
LABELLED = "time,value,label\n0,1,0\n1,2,1\n2,3,0\n"


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_csv", ".csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_classes_in_folders(tmp_path):
    root = write(
        tmp_path, normal__ann__a_csv=TABLE, normal__ann__b_csv=TABLE, normal__c_csv=TABLE,
        anomalous__d_csv=LABELLED, anomalous__e_csv=TABLE,
    )  # fmt: skip

    cohort = read_cohort(root)

    assert (cohort.layout, cohort.modalities, cohort.signals) == ("signals", ("value",), True)
    told = {case.name: (case.patient, case.label, case.split) for case in cohort.cases}
    assert told == {
        "a": ("ann", 0, None), "b": ("ann", 0, None), "c": ("c", 0, None),
        "d": ("d", 1, None), "e": ("e", 1, None),
    }  # fmt: skip
    assert read_cohort(root, patient_pattern="(.)").cases[0].patient == "a"


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        ({"train__normal__a_csv": TABLE, "test__normal__b_csv": TABLE}, "signals"),
        ({"a_csv": TABLE, "b_csv": LABELLED}, "signals"),
        ({"a_csv": "0.5\n0.25\n"}, "signals"),
        ({"cases_csv": "path,patient\na.png,p\n", "a.png": ""}, "list"),
        ({"train__normal__a.png": "", "train__normal__notes_csv": TABLE}, "folder"),
    ],
)
def test_folders_are_told_apart(tmp_path, files, layout):
    root = write(tmp_path, **files)

    assert read_cohort(root).layout == layout
    assert holds_signals(root) == (layout == "signals")


def test_one_recording_may_be_named_itself(tmp_path):
    path = write(tmp_path, rec_csv=TABLE) / "rec.csv"

    cohort = read_cohort(path)

    assert [case.name for case in cohort.cases] == ["rec"] and cohort.cases[0].label == 0
    assert "1 signal without labels, taken for normal" in cohort.notes[0]
    with pytest.raises(InputError, match="layout 'list'"):
        read_cohort(path, "list")

"""Methods are compared on one split, each in a process of its own, and what is finished stays."""

import csv
import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.data.cohort import open_data
from pipelines.runs.comparing import Comparison, chosen_methods
from pipelines.tracking.tracker import Tracker
from transforms.errors import InputError

BUNDLE = Path(__file__).parents[2] / "bundles" / "aeflow"
TINY = {
    "image_size": 32, "flow_steps": 1, "decoder_width": 4, "pretrain_epoch_size": 16,
    "batch_size": 16, "target_fpr": 0.2,
}  # fmt: skip


def test_methods_are_compared_and_resumed(checkout: Path, phantoms: Path, tmp_path: Path) -> None:
    broken = {"network_def#detector": {"_target_": "nowhere.at_all", "detector": "mean_image"}}
    (checkout / "bundles" / "aeflow" / "broken.json").write_text(json.dumps(broken))
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    output = tmp_path / "comparison"
    line = [
        sys.executable, "-m", "monai.bundle", "run", "comparing",
        "--config_file", "bundles/aeflow/compare.json", "--dataset_dir", str(phantoms),
        "--minutes", "0.005",
        "--parallel", "2", "--configs", str(tmp_path / "tiny.json"), "--device", "cpu",
        "--output_dir", str(output), "--tracking_uri", f"sqlite:///{tmp_path}/runs.db",
    ]  # fmt: skip
    environment = {"PYTHONPATH": str(checkout), "PATH": "", "HOME": str(tmp_path)}

    def compare(*methods: str) -> dict[tuple[str, str], dict[str, str]]:
        done = subprocess.run(
            [*line, "--methods", str(list(methods))],
            cwd=checkout, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        with (output / "comparison.csv").open(newline="") as stream:
            return {(row["method"], row["seed"]): row for row in csv.DictReader(stream)}

    both = ("aeflow", "mean_image")
    rows = compare(*both, "broken")
    page = (output / "comparison.html").read_text()
    finished = [output / method / "seed0" / "done.json" for method in both]
    before = [path.stat().st_mtime_ns for path in finished]
    again = compare(*both)
    assert [path.stat().st_mtime_ns for path in finished] == before
    assert again.items() < rows.items()
    assert "nowhere" in rows["broken", "0"]["failed"]
    assert float(rows["mean_image", "0"]["training_seconds"]) < 60
    assert rows["aeflow", "mean of 0"]["minus_reference"] == ""
    ours, theirs = (float(rows[name, "mean of 0"]["image_auroc"]) for name in both)
    difference = float(rows["mean_image", "mean of 0"]["minus_reference"])
    assert difference == pytest.approx(theirs - ours, abs=1e-5)
    splits = [
        json.loads((output / method / "seed0" / "models" / "split.json").read_text())
        for method in both
    ]
    assert splits[0] == splits[1] == json.loads((output / "split.json").read_text())
    assert "nowhere" in page and "baseline intensity" in page
    assert len(re.findall("<img ", page)) == len(splits[0]["test"])
    with sqlite3.connect(tmp_path / "runs.db") as database:
        runs = dict(database.execute("select run_uuid, status from runs"))
        tags = "select run_uuid, value from tags where key = 'mlflow.parentRunId'"
        parents = dict(database.execute(tags))
    assert len(parents) == 2 and len(set(parents.values())) == 1  # the broken one began no run
    assert runs.keys() - parents.keys() == set(parents.values())
    assert set(runs.values()) == {"FINISHED"}


def test_no_method_changes_the_preprocessing(phantoms: Path, tmp_path: Path) -> None:
    further = tmp_path / "further.json"
    patches = {"patch_size": [16, 48, 48]}
    further.write_text(json.dumps({"image_size": 48, "axis": "coronal", **patches}))
    given = {"axis": "sagittal", "region": None}
    comparison = Comparison(
        open_data(str(phantoms)), Tracker(str(tmp_path), "none"), str(BUNDLE), str(tmp_path),
        "aeflow", seeds=[3, 3, 4], configs=str(further), options=given,
    )  # fmt: skip
    first, second = comparison._tasks()
    assert (first.seed, second.seed) == (3, 4) and first.stamp != second.stamp
    assert [path.name for path in first.configs] == ["train.json", "further.json"]
    told = {name: first.options.get(name) for name in ("image_size", "axis", "min_body_fraction")}
    assert told == {"image_size": 48, "axis": "sagittal", "min_body_fraction": 0.1}
    assert "region" not in first.options and patches.items() <= first.options.items()
    with pytest.raises(InputError, match="which take patches of volumes, found 'vae'"):
        Comparison(
            comparison.data, comparison.tracker, str(BUNDLE), str(tmp_path), "vae",
            configs=str(further),
        )  # fmt: skip


def test_a_config_is_a_method_if_its_detector_is_known(tmp_path: Path) -> None:
    for name, content in {
        "kind": {"network_def#detector#detector": "aeflow"},
        "whole": {"network_def#detector": {"detector": "aeflow"}},
        "foreign": {"network_def#detector": {"detector": "nowhere"}},
        "options": {"image_size": 32},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert chosen_methods("all", tmp_path) == ("aeflow", "kind", "whole")


def test_an_unknown_method_is_told_with_the_nearest() -> None:
    assert chosen_methods("all", BUNDLE)[0] == "aeflow"
    assert chosen_methods(["aeflow", "aeflow"], BUNDLE) == ("aeflow",)
    with pytest.raises(InputError, match="which take images, found 'aeflo'. Did you .*'aeflow'"):
        chosen_methods("aeflo", BUNDLE)


@pytest.mark.parametrize(
    ("dims", "kind", "unfit"),
    [(1, "signals", "vae"), (2, "images", "donut"), (3, "patches of volumes", "vae")],
)
def test_methods_for_other_data_are_left_out_and_refused(dims: int, kind: str, unfit: str) -> None:
    fit = {*chosen_methods("all", BUNDLE, dims)}
    assert {"aeflow", "ae", "padim"} <= fit and unfit not in fit
    with pytest.raises(InputError, match=f"which take {kind}, found '{unfit}'.$"):
        chosen_methods(unfit, BUNDLE, dims)

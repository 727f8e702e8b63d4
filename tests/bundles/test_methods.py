"""One file and one short config make a method that the whole bundle runs; the toys do it."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from networks import DETECTORS
from pipelines.common.plain import plain_options
from pipelines.common.schema import check_values
from pipelines.data import NormalSlices
from pipelines.training import NormalBatches

ROOT = Path(__file__).parents[2]
TOYS = ROOT / "tests" / "networks" / "detectors" / "toys"
COLUMNS = {
    "mean_image": ["distance_score"],
    "bank": ["patches_score", "farthest_score"],
    "adversaries": ["residual_score", "critic_score"],
    "search": ["unexplained_score"],
}
MOST_LINES = 40
BUNDLE = ROOT / "bundles" / "aeflow"
METHODS = sorted(
    (name, dims)
    for name, method in DETECTORS.items()
    if method.__module__.startswith("networks.") and name not in ("aeflow", "ensemble")
    for dims in method.dims
    if dims == 2 or name in ("ae", "donut", "padim")  # the others' networks are the same parts
)
SIZES = {1: (64,), 2: (32, 48), 3: (16, 32, 48)}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_method_trains_evaluates_infers_exports_and_is_served(
    name: str, checkout: Path, phantoms: Path, tmp_path: Path
) -> None:
    assert len((TOYS / f"{name}.json").read_text().splitlines()) <= MOST_LINES
    command = [sys.executable, str(ROOT / "tests" / "bundles" / "walk.py"), name, str(phantoms)]
    environment = {"PYTHONPATH": str(checkout), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=checkout, env=environment, capture_output=True, text=True
    )
    if name == "search":
        assert "'search' searches at test time" in done.stderr and done.returncode == 1, done.stderr
    else:
        assert done.returncode == 0, done.stderr[-3000:]
        assert (tmp_path / "models" / "model.pt2").is_file(), done.stdout
    scores = rows(tmp_path / "output" / "scores.csv")
    wanted = [
        "case",
        "level",
        "slice",
        "label",
        "score",
        *COLUMNS[name],
        "percentile",
        "p_value",
        "flagged",
    ]
    assert list(scores[0])[: len(wanted)] == wanted
    for again, first in zip(rows(tmp_path / "evaluation" / "scores.csv"), scores, strict=True):
        assert (again["case"], again["slice"]) == (first["case"], first["slice"])
        assert float(again["score"]) == pytest.approx(float(first["score"]), abs=1e-4)
    metrics = json.loads((tmp_path / "output" / "metrics.json").read_text())
    parts = [column.removesuffix("_score") for column in COLUMNS[name]]
    report = (tmp_path / "output" / "report.html").read_text()
    assert all(part in report for part in parts) and metrics["image_auroc"]["value"] >= 0
    assert list((tmp_path / "output" / "maps").glob("*_anomaly.nii.gz"))
    (whole,) = (r for r in rows(tmp_path / "inference" / "scores.csv") if r["level"] == "volume")
    answer = json.loads((tmp_path / "served.json").read_text())
    for column in ("score", *COLUMNS[name]):
        assert answer[column] == pytest.approx(float(whole[column]), abs=1e-4), column


@pytest.mark.parametrize(("name", "dims"), METHODS)
def test_a_method_of_ours_has_its_config(
    name: str, dims: int, make_slices: Callable[..., NormalSlices]
) -> None:
    usual = plain_options(json.loads((BUNDLE / "train.json").read_text()))
    own = json.loads((BUNDLE / f"{name}.json").read_text())
    assert {option for option in own if "#" not in option} <= set(usual)
    parser = ConfigParser()
    parser.read_config([BUNDLE / "train.json", BUNDLE / f"{name}.json"])
    parser.update({"modalities": "flair,t2", "anatomy": "chest", "image_size": [32, 48]})
    parser["window"], parser["patch_size"] = 64, [16, 32, 48] if dims == 3 else None
    check_values(parser.get())
    if dims == 1:
        parser["spatial_dims"] = json.loads((BUNDLE / "signals.json").read_text())["spatial_dims"]
    scorer = parser.get_parsed_content("network_def")
    assert (scorer.detector.name, scorer.detector.in_channels) == (name, 2)
    assert scorer.detector.spatial_dims == dims
    assert scorer.detector.contrast == ("none" if name == "donut" else "local")
    assert {stage.name for stage in scorer.detector.stages} <= {"pretrain", "train"}
    scorer.detector.prepare(NormalBatches(make_slices(torch.rand(4, 2, *SIZES[dims]))), None)
    image = torch.rand(1, 2, *SIZES[dims])
    context = {"body": torch.ones(1, 1, *SIZES[dims], dtype=torch.bool)}
    with torch.no_grad():
        assert scorer.eval()(image, context).shape == (1, 1, *SIZES[dims])

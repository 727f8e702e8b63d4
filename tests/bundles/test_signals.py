"""Signals by the commands of images: from files to calibrated scores and traces."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import mlflow
import numpy as np
import pandas as pd
import pytest
from monai.bundle import ConfigParser, run

from aeflow import Predictor
from pipelines.export.formats import export_model
from pipelines.export.package import package_bundle
from pipelines.export.registry import package_scorer
from transforms.errors import InputError

BUNDLE = Path(__file__).parents[2] / "bundles" / "aeflow"
TINY = {
    "window": 64, "stride": 32, "flow_steps": 2, "decoder_width": 4, "pretrain_epochs": 4,
    "pretrain_epoch_size": 64, "pretrain_batch_size": 32, "max_epochs": 2, "batch_size": 32,
    "target_fpr": 0.3, "tracking_uri": "none", "device": "cpu",
}  # fmt: skip
LENGTH = 320


def signal(path: Path, number: int, anomalous: bool = False) -> None:
    """Two sines, with a gap; the anomalous have a step in the first, marked in a table beside."""
    source = np.random.default_rng(number)
    time = np.arange(LENGTH)
    rows = [np.sin(time / 3 + number), np.cos(time / 5)]
    values = np.stack(rows) + 0.05 * source.normal(size=(2, LENGTH))
    if anomalous:
        values[0, 100:140] += 3
        path.with_name(f"{path.stem}.labels.csv").write_text("start,end\n10,13.9\n")
    kept = (time < 240) | (time >= 250)
    table = np.column_stack([time / 10, values.T])[kept]
    np.savetxt(path, table, "%.5f", ",", header="time,first,second", comments="")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals")
    for kind, count in (("normal", 12), ("anomalous", 5)):
        (folder / kind).mkdir()
        for number in range(count):
            signal(folder / kind / f"{kind}{number}.csv", number, kind == "anomalous")
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    files = [str(BUNDLE / f"{name}.json") for name in ("train", "signals")]
    run("training", config_file=files, dataset_dir=str(data), **places(folder, "output"), **TINY)
    return folder


def places(folder: Path, output: str) -> dict[str, Any]:
    return {"output_dir": str(folder / output), "ckpt_dir": str(folder / "models")}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_training_finds_the_steps_and_leaves_traces_on_the_clock(trained: Path) -> None:
    metrics = json.loads((trained / "output" / "metrics.json").read_text())
    assert metrics["image_auroc"]["value"] > 0.8 < metrics["pixel_auroc"]["value"]
    assert metrics["volumes"]["n_anomalous"]["value"] == 5
    scores = rows(trained / "output" / "scores.csv")
    own = [row for row in scores if row["case"] == "anomalous0"]
    assert [row["level"] for row in own] == ["window"] * (len(own) - 1) + ["signal"]
    assert [float(row["time"]) for row in own[:-1]][:3] == [0.0, 3.2, 6.4]
    assert metrics["event_recall"]["value"] == 1 and metrics["event_precision"]["value"] > 0.2
    for trivial in (metrics["baselines"][n] for n in ("moving_median", "seasonal_difference")):
        assert trivial["false_alarms"]["value"] <= metrics["false_alarms"]["value"]
        assert trivial["pixel_ap"]["value"] > 0 and "difference" in trivial
    page = (trained / "output" / "report.html").read_text()
    for word in (
        "windows scored", "signals scored", "event recall", "range precision",
        "baseline seasonal difference", "highest window", "Signal, reconstruction",
    ):  # fmt: skip
        assert word in page
    assert " slice" not in page.split("</style>")[1].split("<script")[0]
    trace = rows(trained / "output" / "maps" / "anomalous0_anomaly.csv")
    assert [float(row["time"]) for row in trace] == pytest.approx(np.arange(LENGTH) / 10)
    gap = [row for row in trace if row["seen"] == "0"]
    assert len(gap) == 10 and all(row["score"] == row["above"] == "" for row in gap)
    known = np.array([float(row["score"] or "nan") for row in trace])
    assert np.nanmean(known[100:140]) > np.nanmean(known[160:]) + 1
    limit = metrics["pixel_threshold"]["value"]
    seen = [row for row in trace if row["seen"] == "1"]
    assert all(row["above"] == str(int(float(row["score"]) > limit)) for row in seen)
    assert not list((trained / "output" / "maps").glob(".*"))


def test_the_model_scores_the_same_in_evaluation_inference_and_python(
    trained: Path, data: Path
) -> None:
    evaluated = {"dataset_dir": str(data), "tracking_uri": "none", "device": "cpu"}
    config = str(BUNDLE / "evaluate.json")
    run("evaluating", config_file=config, **places(trained, "evaluation"), **evaluated)
    path = data / "anomalous" / "anomalous0.csv"
    config = str(BUNDLE / "inference.json")
    run("inferring", config_file=config, **places(trained, "inference"), input=str(path))
    found = Predictor(trained / "models", "cpu")(path)

    first, again, new = (
        [row for row in rows(trained / name / "scores.csv") if row["case"] == "anomalous0"]
        for name in ("output", "evaluation", "inference")
    )

    assert again == first and new[0]["label"] == ""
    assert [row["score"] for row in new] == pytest.approx([row["score"] for row in first])
    assert found.score == pytest.approx(float(first[-1]["score"]), abs=1e-4)
    assert found.map.shape == (LENGTH,)
    given = Predictor(trained / "models", "cpu")(found.scored.sample.signal.values)
    assert given.score == pytest.approx(found.score, abs=1e-4)
    assert len(found.show().axes) == 4  # two channels, the trace, and room below it
    plt.close("all")
    assert (trained / "inference" / "report.html").is_file()


def test_a_package_and_a_registered_model_score_signals(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    assert export_model(trained / "models", "torchscript", tmp_path / "model.ts").parity.agrees
    path = data / "anomalous" / "anomalous0.csv"
    sample = (found := Predictor(trained / "models", "cpu")(path)).scored.sample
    package_bundle(BUNDLE, trained / "models", packed := tmp_path / "packed")
    config = str(packed / "configs" / "inference.json")
    run("inferring", config_file=config, **places(packed, "found"), input=str(path))
    own = rows(packed / "found" / "scores.csv")[-1]
    assert (own["level"], float(own["score"])) == ("signal", pytest.approx(found.score, abs=1e-4))

    package_scorer(trained / "models", tmp_path / "registered")
    model = mlflow.pyfunc.load_model(str(tmp_path / "registered"))
    windows = model.predict(sample.images.numpy(), params={"maps": True})
    np.testing.assert_allclose(windows["score"], found.scored.scores["score"], atol=1e-4)
    maps = np.array(windows["anomaly_map"].tolist())
    np.testing.assert_allclose(maps, found.scored.anomaly_map, atol=1e-4)
    files = model.unwrap_python_model().predict(pd.DataFrame({"path": [str(path)]}))
    assert files["score"][0] == pytest.approx(found.score, abs=1e-4)
    with pytest.raises(InputError, match=r"windows of the shape \(N, 2, 64\), found \(3, 2, 32\)"):
        model.unwrap_python_model().predict(np.zeros((3, 2, 32), np.float32))


def test_what_is_not_made_for_signals_says_so(
    trained: Path, data: Path, tmp_path: Path, mistake_of: Callable[..., str]
) -> None:
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "inference.json"))
    parser.update({"ckpt_dir": str(trained / "models"), "device": "cpu"})
    load = parser.get_parsed_content("pre_transforms").transforms[0]
    with pytest.raises(InputError, match="which 3D Slicer and OHIF do not show"):
        load({"image": data / "normal" / "normal0.csv"})
    with pytest.raises(InputError, match="expected 3 names of channels, found first, second"):
        Predictor(trained / "models", "cpu")(np.zeros((3, LENGTH)))
    (tmp_path / "a.png").touch()
    told = mistake_of(
        "inferring", "inference.json", **places(trained, "x"), input=str(tmp_path / "a.png")
    )
    assert "the model reads signals (.csv, .npy" in told

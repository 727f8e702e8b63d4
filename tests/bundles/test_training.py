import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from monai.bundle import ConfigWorkflow, run

BUNDLE = Path(__file__).parents[2] / "bundles" / "aeflow"
Train = Callable[..., None]
FIGURES = (
    "image_auroc",
    "image_ap",
    "pixel_ap",
    "dice_at_threshold",
    "dice_oracle",
    "sensitivity",
    "specificity",
    "threshold",
    "n_normal",
    "n_anomalous",
)


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def test_model_file_loads_safely_and_says_what_it_is(trained: Path) -> None:
    content = torch.load(trained / "models" / "model.pt", weights_only=True)
    assert set(content) >= {"model", "architecture", "modalities", "preprocessing", "split"}
    assert content["modalities"] == ["flair"]
    assert content["architecture"]["in_channels"] == 1
    assert content["preprocessing"]["image_size"] == [32, 32]
    assert not set(content["split"]["train"]) & set(content["split"]["test"])
    assert content["versions"]["torch"]
    assert not list((trained / "models").glob(".*"))


def test_metrics_hold_every_figure_with_its_interval(trained: Path) -> None:
    metrics = load(trained / "output" / "metrics.json")
    for name in FIGURES:
        assert set(metrics[name]) >= {"value", "ci95"}, name
    assert metrics["n_normal"]["value"] > 0 and metrics["n_anomalous"]["value"] > 0
    assert math.isfinite(metrics["threshold"]["value"])
    for baseline in ("intensity", "sharpness", "mean", "spread", "area"):
        assert set(metrics["baselines"][baseline]["difference"]) == {"value", "ci95"}
    assert any("tumour" in note for note in metrics["notes"])


def test_scores_are_written_one_row_per_slice(trained: Path) -> None:
    with (trained / "output" / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    wanted = "case,slice,label,score,flow_score,recon_score,percentile,flagged".split(",")
    assert set(wanted) <= set(rows[0])
    assert "patient" not in rows[0]
    threshold = load(trained / "output" / "metrics.json")["threshold"]["value"]
    assert all((float(row["score"]) > threshold) == (row["flagged"] == "1") for row in rows)


def test_tracking_holds_one_finished_run(trained: Path) -> None:
    uri = f"sqlite:///{trained / 'output' / 'mlruns.db'}"
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("aeflow")
    assert experiment is not None
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["max_epochs"] == "2"
    assert "data_fingerprint" in tracked.data.params
    expected = {"train_loss", "train_flow_loss", "train_recon_loss", "val_flow_loss"}
    assert expected | {"image_auroc", "pretrain_loss"} <= set(tracked.data.metrics)
    history = client.get_metric_history(tracked.info.run_id, "train_flow_loss")
    assert [point.step for point in history] == [1, 2]
    names = {item.path for item in client.list_artifacts(tracked.info.run_id)}
    assert {"metrics.json", "scores.csv", "config.json", "curves.png", "model"} <= names


@pytest.mark.parametrize("num_workers", [0, 2])
def test_same_seed_gives_the_same_weights(
    trained: Path, phantoms: Path, tmp_path: Path, train: Train, num_workers: int
) -> None:
    train(phantoms, tmp_path, num_workers=num_workers, tracking_uri="none")
    first, second = (
        torch.load(folder / "models" / "model.pt", weights_only=True)["model"]
        for folder in (trained, tmp_path)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "output" / "mlruns.db").exists()


def test_evaluating_the_model_gives_the_training_s_figures(
    trained: Path, phantoms: Path, tmp_path: Path
) -> None:
    run(
        "evaluating",
        config_file=str(BUNDLE / "evaluate.json"),
        dataset_dir=str(phantoms),
        ckpt_dir=str(trained / "models"),
        output_dir=str(tmp_path),
        tracking_uri="none",
    )
    again, before = load(tmp_path / "metrics.json"), load(trained / "output" / "metrics.json")
    for name in FIGURES:
        assert again[name]["value"] == pytest.approx(before[name]["value"], abs=1e-5), name


@pytest.mark.parametrize(("config", "kind"), [("train", "train"), ("evaluate", "infer")])
def test_the_workflows_have_all_properties(
    config: str, kind: str, trained: Path, phantoms: Path, tmp_path: Path
) -> None:
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / f"{config}.json"),
        workflow_type=kind,
        dataset_dir=str(phantoms),
        output_dir=str(tmp_path),
        ckpt_dir=str(trained / "models"),
        tracking_uri="none",
        **({"target_fpr": 0.2, "image_size": 32} if config == "train" else {}),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_presets_override_only_what_exists() -> None:
    defined = load(BUNDLE / "train.json")
    for preset in ("paper.json", "gpu.json"):
        assert set(load(BUNDLE / preset)) <= set(defined)


def test_both_run_ids_exist_and_are_short() -> None:
    train_config, evaluate_config = load(BUNDLE / "train.json"), load(BUNDLE / "evaluate.json")
    assert train_config["run"] == "%training" and evaluate_config["run"] == "%evaluating"
    assert len(train_config["training"]) <= 6 and len(evaluate_config["evaluating"]) <= 6


def test_without_pretraining_there_is_no_head(phantoms: Path, tmp_path: Path, train: Train) -> None:
    train(phantoms, tmp_path, pretrain_epochs=0, max_epochs=1, tracking_uri="none", score="paper")
    content = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert content["architecture"]["with_head"] is False
    assert content["scorer"]["score"] == "paper"

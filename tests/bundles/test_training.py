import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from pipelines.data import slices

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
    assert set(content) >= {"model", "detector", "config", "fusion", "modalities", "split"}
    assert content["detector"] == "aeflow" and content["fusion"]["score"] == "fused"
    assert content["modalities"] == ["flair"]
    assert content["config"]["in_channels"] == 1
    assert content["preprocessing"]["image_size"] == [32, 32]
    assert not set(content["split"]["train"]) & set(content["split"]["test"])
    assert content["versions"]["torch"]
    assert not list((trained / "models").glob(".partial*"))


def test_metrics_hold_every_figure_with_its_interval(trained: Path) -> None:
    metrics = load(trained / "output" / "metrics.json")
    for name in FIGURES:
        assert set(metrics[name]) >= {"value", "ci95"}, name
    assert metrics["n_normal"]["value"] > 0 and metrics["n_anomalous"]["value"] > 0
    assert math.isfinite(metrics["threshold"]["value"])
    for baseline in ("intensity", "sharpness", "mean", "spread", "area"):
        difference = metrics["baselines"][baseline]["difference"]
        assert difference["ci95"] is None and difference["note"] == "1 patient: no figure"
    assert any("tumour" in note for note in metrics["notes"])


def test_scores_are_written_one_row_per_slice(trained: Path) -> None:
    with (trained / "output" / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    parts = ("flow", "recon", "head", "bright", "dark", "density", "local")
    wanted = ["case", "level", "slice", "label", "score", *(f"{part}_score" for part in parts)]
    wanted += ["percentile", "p_value", "flagged"]
    assert list(rows[0])[: len(wanted)] == wanted
    assert "patient" not in rows[0]
    metrics, split = (load(trained / name) for name in ("output/metrics.json", "models/split.json"))
    slices = [row for row in rows if row["level"] == "slice"]
    threshold = metrics["threshold"]["value"]
    assert all((float(row["score"]) > threshold) == (row["flagged"] == "1") for row in slices)
    volumes = [row for row in rows if row["level"] == "volume"]
    assert [row["case"] for row in volumes] == sorted(split["test"])
    assert {row["slice"] for row in volumes} == {""} and {row["label"] for row in volumes} == {"1"}
    assert metrics["volumes"]["n_anomalous"]["value"] == len(volumes)
    assert len(metrics["patients"]) == metrics["n_patients"]["value"] == len(volumes)


def test_held_out_volumes_judge_new_ones(trained: Path) -> None:
    content = torch.load(trained / "models" / "model.pt", weights_only=True)
    reference = content["case_scores"]
    assert len(reference) == len(content["split"]["calibration"])
    assert reference == sorted(reference) and content["target_fpr"] == 0.2
    with (trained / "output" / "scores.csv").open() as stream:
        volumes = [row for row in csv.DictReader(stream) if row["level"] == "volume"]
    for row in volumes:
        below = sum(one <= float(row["score"]) for one in reference)
        assert float(row["percentile"]) == pytest.approx(100 * below / len(reference))
        assert (row["flagged"] == "1") == (float(row["score"]) > reference[-1])


def test_maps_lie_on_the_grid_of_their_volumes(trained: Path, phantoms: Path) -> None:
    cases = load(trained / "models" / "split.json")["test"]
    folder = trained / "output" / "maps"
    assert {path.name for path in folder.iterdir()} == {
        f"{case}_{what}.nii.gz" for case in cases for what in ("anomaly", "mask")
    }
    for case in cases:
        source: Any = nib.load(phantoms / case / f"{case}_flair.nii.gz")
        body = np.asarray(source.dataobj) > 0
        for what in ("anomaly", "mask"):
            written: Any = nib.load(folder / f"{case}_{what}.nii.gz")
            np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
            assert written.header.get_xyzt_units()[0] == "mm" and written.shape == source.shape
            values = np.asarray(written.dataobj)
            assert values[body].any() and not values[0].any() and not values[:, 0].any()


def test_the_output_folder_holds_everything(trained: Path) -> None:
    names = {path.name for path in (trained / "output").iterdir()}
    assert {"metrics.json", "scores.csv", "report.html", "curves.png", "config.json"} <= names
    assert "failures.csv" not in names


def test_tracking_holds_one_finished_run(trained: Path) -> None:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{trained / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("aeflow")
    assert experiment is not None
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["max_epochs"] == "2" and "version.torch" in tracked.data.params
    resolved = {"image_size": "32", "region": "body", "contrast": "none"}
    assert resolved.items() <= tracked.data.params.items()
    assert tracked.data.params["data_fingerprint"] and tracked.data.tags["kind"] == "training"
    learnt, tested = tracked.inputs.dataset_inputs
    assert [one.tags[0].value for one in (learnt, tested)] == ["training", "testing"]
    assert json.loads(tested.dataset.profile) == {"test_cases": 1, "test_patients": 1}
    assert learnt.dataset.digest != tested.dataset.digest
    expected = {"train/loss", "train/flow_loss", "train/recon_loss", "val/flow_loss"}
    assert expected | {"test/n_anomalous", "pretrain/loss"} <= set(tracked.data.metrics)
    assert "test/image_auroc" not in tracked.data.metrics  # of one patient
    for name, steps in (
        ("train/flow_loss", [1, 2]),
        ("val/flow_loss", [1, 2]),
        ("pretrain/val_loss", [1]),
    ):
        history = client.get_metric_history(tracked.info.run_id, name)
        assert [point.step for point in history] == steps, name
    names = {item.path for item in client.list_artifacts(tracked.info.run_id)}
    assert {"metrics.json", "scores.csv", "config.json", "curves.png", "model"} <= names


def test_same_seed_gives_the_same_weights_with_any_number_of_workers(
    trained: Path, phantoms: Path, tmp_path: Path, train: Train
) -> None:
    train(phantoms, tmp_path, num_workers=2, tracking_uri="none")
    first, second = (
        torch.load(folder / "models" / "model.pt", weights_only=True)["model"]
        for folder in (trained, tmp_path)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("config", "kind"), [("train", "train"), ("evaluate", "infer"), ("inference", "infer")]
)
def test_the_workflows_have_all_properties(
    config: str, kind: str, trained: Path, phantoms: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"dataset_dir": str(phantoms), "tracking_uri": "none"}
    if config == "train":
        options |= {"target_fpr": 0.2, "image_size": 32}
    elif config == "inference":
        options = {"input": str(phantoms)}
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / f"{config}.json"),
        workflow_type=kind,
        output_dir=str(tmp_path),
        ckpt_dir=str(trained / "models"),
        **options,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_every_file_is_read_once(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    genuine = slices.read_case

    def counted(images: Any, *args: Any, **options: Any) -> Any:
        read.extend(images)
        return genuine(images, *args, **options)

    monkeypatch.setattr(slices, "read_case", counted)
    parser = ConfigParser()
    parser.read_config(BUNDLE / "train.json")
    parser.update({"dataset_dir": str(phantoms), "image_size": 32, "output_dir": str(tmp_path)})
    for part in ("train#trainer", "pretrain#trainer", "calibrator", "evaluation", "preprocessing"):
        parser.get_parsed_content(part)
    split = parser.get_parsed_content("data").split
    assert sorted(read) == sorted(case.images[0] for case in (*split.train, *split.calibration))


@pytest.mark.parametrize(
    ("config", "name"),
    [("train", "training"), ("evaluate", "evaluating"), ("inference", "inferring")],
)
def test_both_run_ids_exist_and_are_short(config: str, name: str) -> None:
    content = load(BUNDLE / f"{config}.json")
    assert content["run"] == f"%{name}" and len(content[name]) <= 6


def test_without_pretraining_there_is_no_head(phantoms: Path, tmp_path: Path, train: Train) -> None:
    train(phantoms, tmp_path, pretrain_epochs=0, max_epochs=1, tracking_uri="none", score="paper")
    content = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert content["config"]["with_head"] is False
    assert content["fusion"]["score"] == "paper"

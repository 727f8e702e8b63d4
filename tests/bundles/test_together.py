"""Two processes train, calibrate and score as one does."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from monai.bundle import run

from pipelines.data.cohort import open_data
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.data.signals import model_loader
from pipelines.scoring.calibration import calibrator_like
from pipelines.scoring.model_file import load_scorer, read_model
from tests.bundles.together import trained

BUNDLE = Path(__file__).parents[2] / "bundles" / "aeflow"
TINY = {
    "image_size": 32, "flow_steps": 2, "decoder_width": 4, "pretrain_epochs": 1,
    "pretrain_epoch_size": 32, "pretrain_batch_size": 8, "max_epochs": 2, "batch_size": 8,
    "target_fpr": 0.4,
}  # fmt: skip


@pytest.fixture(scope="module")
def together(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what two processes did, with what they said in ``said``."""
    folder = tmp_path_factory.mktemp("together")
    names = sorted(path.name for path in phantoms.iterdir() if path.is_dir())
    parts = {"train": names[:2], "calibration": names[2:3], "test": names[3:]}
    (folder / "split.json").write_text(json.dumps(parts))
    given = TINY | {
        "dataset_dir": phantoms, "split": folder / "split.json", "output_dir": folder / "output",
        "ckpt_dir": folder / "models", "tracking_uri": f"sqlite:///{folder / 'runs.db'}",
    }  # fmt: skip
    files = [str(BUNDLE / "train.json"), str(BUNDLE / "multi_gpu.json")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(Path(__file__).with_name("together.py")), str(folder)]
    command += ["run", "training", "--config_file", str(files), "--device", "cpu"]
    command += [word for name, value in given.items() for word in (f"--{name}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    (folder / "said").write_text(ended.stdout + ended.stderr)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_gradients_are_those_of_one_process_s_batch(together: Path) -> None:
    found, expected = torch.load(together / "states0.pt")["train"], trained(with_head=False)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_processes_do_not_drift_apart(together: Path) -> None:
    first, second = (torch.load(together / f"states{rank}.pt")["all"] for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_there_is_one_model_one_tracked_run_and_one_report(together: Path) -> None:
    assert {one.name for one in (together / "models").glob("[!.]*")} == {"model.pt", "split.json"}
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{together / 'runs.db'}")
    experiment = client.get_experiment_by_name("aeflow")
    assert experiment is not None
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    said = (together / "said").read_text()
    assert all(said.count(line) == 1 for line in ("Epoch 2/2", "Model written", "report  "))


def test_the_calibration_is_that_of_one_process(together: Path, phantoms: Path) -> None:
    model = read_model(str(together / "models"))
    data = open_data(str(phantoms), split=str(together / "split.json"))
    slices = NormalSlices(data.split.calibration, model_loader(model))
    scorer = load_scorer(model, "cpu")
    found = {name: value.clone() for name, value in scorer.calibration.state_dict().items()}
    calibrator_like(model, scorer, slice_loader(slices, TINY["batch_size"]), "cpu").run()
    for name, value in scorer.calibration.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_the_scores_are_those_of_one_process(
    together: Path, phantoms: Path, tmp_path: Path
) -> None:
    run(
        "evaluating",
        config_file=str(BUNDLE / "evaluate.json"),
        dataset_dir=str(phantoms),
        split=str(together / "split.json"),
        ckpt_dir=str(together / "models"),
        output_dir=str(tmp_path),
        batch_size=TINY["batch_size"],
        tracking_uri="none",
    )
    found, expected = rows(together / "output"), rows(tmp_path)
    assert len({row["case"] for row in expected}) == 3  # of two processes one has two of them
    for one, other in zip(found, expected, strict=True):
        figures = {name: value for name, value in other.items() if isinstance(value, float)}
        assert {name: one[name] for name in figures} == pytest.approx(figures, rel=1e-5, abs=1e-5)
        assert one == one | {name: v for name, v in other.items() if name not in figures}
    assert {one.name for one in (together / "output" / "maps").iterdir()} == {
        one.name for one in (tmp_path / "maps").iterdir()
    }


def rows(folder: Path) -> list[dict[str, Any]]:
    """The table of scores, its numbers as such."""
    with (folder / "scores.csv").open() as stream:
        return [
            {name: number(cell) for name, cell in row.items()} for row in csv.DictReader(stream)
        ]


def number(cell: str) -> float | str:
    """What a cell says."""
    try:
        return float(cell)
    except ValueError:
        return cell

"""A training that is killed in each of its phases ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

ROOT = Path(__file__).parents[2]

PROGRAM = """
import io, json, logging, os, signal, sys
import torch
from monai.bundle import run

kind, place, number, options = sys.argv[1:]
left = int(number)
genuine = torch.save

def end():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), getattr(signal, kind))

class Ear(logging.Handler):
    def emit(self, record):
        if place in record.getMessage():
            end()

def save(content, path):
    if place in str(path) and left == 1:
        whole = io.BytesIO()
        genuine(content, whole)
        path.write_bytes(whole.getvalue()[: whole.tell() // 2])
    if place in str(path):
        end()
    genuine(content, path)

torch.save = save
logging.getLogger("pipelines").addHandler(Ear())
run("training", **json.loads(options))
"""

DEATHS = (
    ("SIGKILL", ".partial-checkpoint-", 3, "auto", ["RUNNING"]),
    ("SIGKILL", ".partial-checkpoint-", 3, "never", ["FAILED", "RUNNING"]),
    ("SIGTERM", "Pre-training epoch 1/2", 1, "auto", ["FAILED", "KILLED"]),
    ("SIGKILL", "Epoch 2/2", 1, "auto", ["FAILED", "RUNNING"]),
    ("SIGKILL", ".partial-model-", 1, "auto", ["FAILED", "RUNNING"]),
    ("SIGINT", "Model written", 1, "auto", ["FAILED", "KILLED"]),
)
"""Signal; what is told or written then, for the how manyth time; --resume; the runs then."""


def train(options: dict[str, Any], kind: str = "SIGKILL", place: str = "-", number: int = 0) -> Any:
    given = [kind, place, str(number), json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *given], env=environment, capture_output=True, text=True
    )


def tracking_uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'runs.db'}"


def runs(folder: Path) -> list[str]:
    client = MlflowClient(tracking_uri=tracking_uri(folder))
    experiments = [one.experiment_id for one in client.search_experiments()]
    return sorted(one.info.status for one in client.search_runs(experiments))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "models" / "model.pt", weights_only=True)[
        "model"
    ]
    return found


@pytest.fixture(scope="module")
def options(phantoms: Path) -> dict[str, Any]:
    return {
        "config_file": str(ROOT / "bundles" / "aeflow" / "train.json"),
        "dataset_dir": str(phantoms),
        "image_size": 32,
        "flow_steps": 2,
        "decoder_width": 4,
        "pretrain_epochs": 2,
        "pretrain_epoch_size": 32,
        "pretrain_batch_size": 16,
        "max_epochs": 2,
        "batch_size": 16,
        "target_fpr": 0.2,
        "checkpoint_minutes": 1e-9,
        "device": "cpu",
    }


def placed(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    folders = {"output_dir": f"{folder / 'output'}", "ckpt_dir": f"{folder / 'models'}"}
    return {**options, **folders, "tracking_uri": tracking_uri(folder)}


def test_a_training_killed_in_each_phase_equals_an_uninterrupted_one(
    options: dict[str, Any], tmp_path: Path
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    done = train(placed(options, straight) | {"tracking_uri": "none"})
    assert done.returncode == 0, done.stderr
    for kind, place, number, resume, known in DEATHS:
        again = (killed / "models").exists() and resume == "auto"
        done = train(placed(options, killed) | {"resume": resume}, kind, place, number)
        ended = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}[kind]
        assert done.returncode == ended, (place, done.stdout, done.stderr)
        assert ("Going on with an interrupted training" in done.stdout) is again
        assert runs(killed) == known
        if kind != "SIGKILL":
            assert "Traceback" not in done.stderr
            last = done.stderr.strip().splitlines()[-1]
            assert last.startswith(f"Stopped by {kind}. All up to ")
            assert last.endswith("The same command goes on from there.")
    done = train(placed(options, killed))
    assert done.returncode == 0, done.stderr
    assert "Epoch" not in done.stdout  # all stages were finished
    assert runs(killed) == ["FAILED", "FINISHED"]
    expected, found = weights(straight), weights(killed)
    assert set(found) == set(expected)
    assert [name for name, value in found.items() if not torch.equal(value, expected[name])] == []
    assert not (killed / "models" / "resume").exists()

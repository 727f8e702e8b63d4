"""Mistakes typed on the command line: each answer names the option and says what to do."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import run
from PIL import Image

from pipelines.common.options import find_mistake

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "aeflow"


@pytest.fixture(scope="module")
def places(
    trained: Path,
    phantoms: Path,
    train: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """Folders that the mistakes are made with."""
    folder = tmp_path_factory.mktemp("mistakes")
    rng = np.random.default_rng(0)
    for part, count in (("train/normal", 36), ("test/anomalous", 2)):
        (folder / "pictures" / part).mkdir(parents=True)
        for number in range(count):
            picture = Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8))
            picture.save(folder / "pictures" / part / f"{part[:2]}{number}.png")
    for name in ("bad", "hollow"):
        for part in ("train/normal", "test/anomalous"):
            (folder / name / part).mkdir(parents=True)
    for number in range(8):
        (folder / "bad" / "train/normal" / f"bad{number}.png").write_text("no picture")
    (folder / "bad" / "test/anomalous" / "x.png").write_text("no picture")
    (folder / "empty").mkdir()
    (folder / "junk").mkdir()
    (folder / "junk" / "model.pt").write_text("no model")
    (folder / "file.txt").write_text("text")
    return {
        "tmp": str(folder),
        "pictures": str(folder / "pictures"),
        "phantoms": str(phantoms),
        "models": str(trained / "models"),
    }


TRAINING: list[tuple[dict[str, Any], list[str]]] = [
    ({"max_epoch": 5}, ["--max_epoch", "max_epochs"]),
    ({"train": 5}, ["--train", "not an option"]),
    ({"dataset_dir": "{tmp}/nowhere"}, ["dataset_dir", "nowhere", "does not exist"]),
    ({"dataset_dir": "{tmp}/hollow"}, ["train/normal"]),
    ({"dataset_dir": "{tmp}/bad"}, ["bad", ".png", "damaged"]),
    ({"layout": "brat"}, ["layout", "brats"]),
    ({"tracking": "mlflow"}, ["--tracking", "--tracking_uri"]),
    ({"tracking_uri": "./runs"}, ["tracking_uri", "sqlite:///"]),
    ({"tracking_uri": "htp://localhost:5000"}, ["tracking_uri", "htp"]),
    ({"encoder": "resnet19"}, ["encoder", "resnet18"]),
    ({"encoder_weights": "nofile.pth"}, ["encoder_weights", "nofile.pth"]),
    ({"encoder_weights": "{tmp}/junk/model.pt"}, ["encoder_weights", "model.pt"]),
    ({"image_size": 100}, ["image_size", "divisible by 16"]),
    ({"image_size": "large"}, ["image_size", "large"]),
    ({"target_fpr": 5}, ["target_fpr", "0.05"]),
    ({"fractions": [0.9, 0.2, 0.2]}, ["fractions", "add to 1"]),
    ({"split": "{tmp}/no.json"}, ["split", "no.json"]),
    ({"patient_pattern": "("}, ["patient_pattern", "regular expression"]),
    ({"device": "cuda:99"}, ["device", "cuda:99", "CUDA"]),
    ({"device": "gpu"}, ["device", "cpu, cuda"]),
    ({"batch_size": 0}, ["batch_size", "from 1"]),
    ({"learning_rate": "fast"}, ["learning_rate", "fast"]),
    ({"max_epochs": -1}, ["max_epochs", "from 1"]),
    ({"seed": "abc"}, ["seed", "abc"]),
    ({"num_workers": -1}, ["num_workers", "from 0"]),
    ({"alpha": 2}, ["alpha", "0 to 1"]),
    ({"score": "foo"}, ["score", "fused"]),
    ({"intensity": "bright"}, ["intensity", "zscore"]),
    ({"output_dir": "{tmp}/file.txt"}, ["output_dir", "file.txt"]),
    ({"dataset_dir": ""}, ["dataset_dir", "It is empty"]),
    ({"dataset_dir": "{phantoms}", "modalities": "flare"}, ["modalities", "flair"]),
    ({"dataset_dir": "{phantoms}", "axis": "transverse"}, ["axis", "axial"]),
    ({"dataset_dir": "{phantoms}", "slice_range": [130, 25]}, ["slice_range", "[25,130]"]),
    ({"dataset_dir": "{phantoms}", "slice_range": [200, 225]}, ["slice_range", "no normal slice"]),
]

EVALUATION: list[tuple[dict[str, Any], list[str]]] = [
    ({"max_epochs": 5}, ["--max_epochs", "no such option"]),
    ({"ckpt_dir": "{tmp}/empty"}, ["ckpt_dir", "Train one first"]),
    ({"ckpt_dir": "{tmp}/junk"}, ["ckpt_dir", "model.pt"]),
    ({"modalities": "flair,t2"}, ["modalities", "the model reads flair"]),
    ({"cases": "Phantom_0001"}, ["cases", "Did you mean"]),
    ({"limit": 0}, ["limit", "from 1"]),
    ({"dataset_dir": "{pictures}"}, ["volumes", "pictures"]),
]

INFERENCE: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["--input"]),
    ({"inputs": "{pictures}"}, ["--inputs", "'input'"]),
    ({"input": "{tmp}/nope.nii.gz"}, ["input", "nope.nii.gz", "does not exist"]),
    ({"input": "{tmp}/empty"}, ["input", "no image"]),
    ({"input": "{tmp}/file.txt"}, ["file.txt", ".nii"]),
    ({"input": "{pictures}/train/normal/tr0.png"}, ["tr0.png", "expected a volume"]),
]


def answer(run_id: str, config: str, places: dict[str, str], options: dict[str, Any]) -> str:
    def filled(value: Any) -> Any:
        return value.format(**places) if isinstance(value, str) else value

    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps what the program raises
        run(run_id, config_file=str(BUNDLE / config), **{k: filled(v) for k, v in options.items()})
    told = find_mistake(caught.value)
    assert told is not None, f"a traceback: {caught.value!r}"
    return told


@pytest.mark.parametrize(("options", "said"), TRAINING, ids=str)
def test_mistakes_of_a_training(
    options: dict[str, Any], said: list[str], places: dict[str, str], tmp_path: Path
) -> None:
    usual = {
        "dataset_dir": "{pictures}",
        "image_size": 32,
        "target_fpr": 0.2,
        "output_dir": str(tmp_path / "output"),
        "ckpt_dir": str(tmp_path / "models"),
        "tracking_uri": "none",
    }
    told = answer("training", "train.json", places, usual | options)
    assert [word for word in said if word not in told] == [], told
    assert not (tmp_path / "models" / "model.pt").exists()


@pytest.mark.parametrize(("options", "said"), EVALUATION, ids=str)
def test_mistakes_of_an_evaluation(
    options: dict[str, Any], said: list[str], places: dict[str, str], tmp_path: Path
) -> None:
    usual = {
        "dataset_dir": "{phantoms}",
        "ckpt_dir": "{models}",
        "output_dir": str(tmp_path),
        "tracking_uri": "none",
    }
    told = answer("evaluating", "evaluate.json", places, usual | options)
    assert [word for word in said if word not in told] == [], told


@pytest.mark.parametrize(("options", "said"), INFERENCE, ids=str)
def test_mistakes_of_an_inference(
    options: dict[str, Any], said: list[str], places: dict[str, str], tmp_path: Path
) -> None:
    usual = {"ckpt_dir": "{models}", "output_dir": str(tmp_path)}
    told = answer("inferring", "inference.json", places, usual | options)
    assert [word for word in said if word not in told] == [], told


def test_on_the_command_line_a_mistake_is_one_paragraph(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", "bundles/aeflow/train.json", "--max_epoch", "5"]
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path), "--tracking_uri", "none"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    paragraph = done.stderr[done.stderr.index("Error: ") :].strip()
    assert "\n\n" not in paragraph and "max_epochs" in paragraph

"""Mistakes typed on the command line: one paragraph, exit code 1, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bundle_run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "monai.bundle",
            "run",
            "training",
            "--config_file",
            "bundles/aeflow/train.json",
            "--tracking_uri",
            "none",
            *options,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max_epoch", "5"], ["--max_epoch", "max_epochs"]),
        (["--dataset_dir", "{tmp}/nowhere"], ["nowhere"]),
        (["--layout", "brat", "--dataset_dir", "{tmp}"], ["brats"]),
        (["--dataset_dir", "{tmp}/empty_class"], ["train/normal"]),
        (["--dataset_dir", "{tmp}/unreadable"], ["bad.png"]),
        (["--tracking", "mlflow"], ["--tracking_uri"]),
        (["--encoder", "resnet19", "--dataset_dir", "{tmp}/good"], ["resnet18"]),
    ],
)
def test_a_mistake_is_one_paragraph(options: list[str], said: list[str], tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    for name in ("empty_class", "unreadable", "good"):
        for part in ("train/normal", "test/normal", "test/anomalous"):
            (tmp_path / name / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(40):
        picture = Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8))
        part = "train/normal" if number < 36 else "test/anomalous"
        picture.save(tmp_path / "good" / part / f"p{number}.png")
    (tmp_path / "unreadable" / "train/normal" / "bad.png").write_text("no picture")
    for number in range(4):
        (tmp_path / "unreadable" / "train/normal" / f"q{number}.png").write_text("no picture")
    (tmp_path / "unreadable" / "test/anomalous" / "x.png").write_text("no picture")
    filled = [option.replace("{tmp}", str(tmp_path)) for option in options]

    done = bundle_run(*filled, "--output_dir", str(tmp_path / "out"))

    assert done.returncode == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    paragraph = done.stderr[done.stderr.index("Error: ") :]
    assert len(paragraph.strip().split("\n\n")) == 1
    for word in said:
        if word == "bad.png":
            assert ".png" in paragraph
        else:
            assert word in paragraph, paragraph

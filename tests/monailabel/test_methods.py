"""The app serves any method that a model file names."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.scoring.model_file import read_model

WALK = Path(__file__).parents[1] / "bundles" / "walk.py"


def test_a_method_of_one_file_is_served(
    checkout: Path,
    phantoms: Path,
    volumes: list[Path],
    start_server: Callable[..., Any],
    tmp_path: Path,
) -> None:
    command = [sys.executable, str(WALK), "mean_image", str(phantoms), str(tmp_path)]
    environment = {"PYTHONPATH": str(checkout), "HOME": str(tmp_path)}
    subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)
    assert read_model(tmp_path / "models")["detector"] == "mean_image"
    studies = tmp_path / "studies"
    studies.mkdir()
    (studies / "one.nii.gz").write_bytes(volumes[0].read_bytes())
    with start_server(studies, tmp_path / "models", environment=environment) as server:
        words = server.infer("one").json()
    expected = json.loads((tmp_path / "served.json").read_text())
    for name in ("score", "distance_score", "threshold"):
        assert words[name] == pytest.approx(expected[name], abs=1e-4), name

"""MONAI Label's own `monaibundle` app on packaged bundles, without any code of the clone."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
import SimpleITK as sitk
import torch
from PIL import Image

from benchmarks.label_server import ROOT, free_port, running, start_arguments
from pipelines.data.cases import Case
from pipelines.export.package import package_bundle
from pipelines.scoring.bands import LABELS, Bands
from pipelines.scoring.cases import ScoredCase
from pipelines.scoring.predictor import Predictor

PYTHON = os.environ.get("AEFLOW_LABEL_PYTHON", "")
AFFINE = np.array([[0, -2.0, 0, 9], [-1, 0, 0, 7], [0, 0, 1.5, -5], [0, 0, 0, 1]])
START = "import runpy; runpy.run_module('monailabel.main', run_name='__main__', alter_sys=True)"
TORCHVISION = {
    "__init__.py": "",
    "utils.py": "make_grid = save_image = None\n",
}
"""All that the app takes from torchvision, which cannot be imported beside every build of torch."""
WriteModel = Callable[..., dict[str, Any]]


@dataclass
class StockServer:
    """A running server: where it answers, and the folders of its models and its log."""

    url: str
    app: Path
    studies: Path
    log: Path

    def infer(self, model: str, image: str, output: str) -> requests.Response:
        return requests.post(
            f"{self.url}/infer/{model}", params={"image": image, "output": output}, timeout=120
        )

    def judge(self, model: str, file: str) -> tuple[ScoredCase, np.ndarray[Any, Any]]:
        """The same image by the predictor: its scores and its label map."""
        predictor = Predictor(self.app / "model" / model / "models")
        scored = predictor(Case("image", "image", (self.studies / file,)))
        bands = Bands.of(predictor.scorer)
        return scored, bands.label_map(scored.grid_map.as_tensor().numpy())


def label_environment() -> dict[str, str]:
    """Where the label environment keeps its packages and the app."""
    wanted = "import json, sysconfig; print(json.dumps(sysconfig.get_paths()))"
    found: dict[str, str] = json.loads(subprocess.check_output([PYTHON, "-c", wanted]))
    return found


@contextlib.contextmanager
def serving(app: Path, studies: Path, models: str) -> Iterator[StockServer]:
    port = free_port()
    for name, text in TORCHVISION.items():
        (app / "stub" / "torchvision").mkdir(parents=True, exist_ok=True)
        (app / "stub" / "torchvision" / name).write_text(text)
    # Without site (-S) no .pth file of the environment makes the clone known.
    conf = {"models": models, "zoo_source": "local", "sam2": "false", "skip_trainers": "true"}
    command = [PYTHON, "-S", "-c", START, *start_arguments(app, studies, port, **conf)]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MONAI_LABEL"))}
    kept["PYTHONPATH"] = os.pathsep.join([str(app / "stub"), label_environment()["purelib"]])
    kept |= {"HOME": str(app), "TMPDIR": str(app)}
    server = StockServer(f"http://127.0.0.1:{port}", app, studies, app / "log.txt")
    with running(command, port, server.log, kept, folder=app):
        yield server


def liven(model: Path) -> None:
    """Makes the maps of a model without training reach both bands."""
    content = torch.load(model, weights_only=True)
    state = content["model"]
    state["calibration.maps.levels"].sub_(0.2)
    state["calibration.pixel_threshold"].fill_(0.5)
    state["calibration.pixel_fpr"].fill_(0.01)
    state["calibration.pixel_levels"].copy_(torch.linspace(-5.0, 5.0, 401))  # 2.5 at 99.9 %
    torch.save(content, model)


@pytest.fixture
def server(write_model: WriteModel, tmp_path: Path) -> Iterator[StockServer]:
    """A server with a model of volumes and one of pictures."""
    app, studies = tmp_path / "app", tmp_path / "studies"
    stock = Path(label_environment()["data"]) / "monailabel" / "sample-apps" / "monaibundle"
    shutil.copytree(stock, app, ignore=shutil.ignore_patterns("__pycache__", "model", "logs"))
    for name, volumetric in (("brain", True), ("xray", False)):
        write_model(name, volumetric=volumetric, modalities=["image"])
        liven(tmp_path / name / "model.pt")
        package_bundle(ROOT / "bundles" / "aeflow", tmp_path / name, app / "model" / name)
    studies.mkdir()
    generator = np.random.default_rng(0)
    values = generator.normal(100, 20, (20, 24, 8)).clip(1).astype(np.float32)
    values[:3] = values[-3:] = values[:, :3] = values[:, -3:] = 0
    nib.save(nib.Nifti1Image(values, AFFINE), studies / "scan.nii.gz")
    levels = generator.integers(1, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(levels).save(studies / "photo.png")
    with serving(app, studies, "brain,xray") as running:
        yield running


def test_the_stock_app_serves_packages(server: StockServer, tmp_path: Path) -> None:
    info = requests.get(f"{server.url}/info/", timeout=60).json()
    assert set(info["models"]) == {"brain", "xray"} and not info["trainers"]
    assert info["models"]["brain"]["labels"] == LABELS
    assert info["models"]["brain"]["type"] == "segmentation"

    scored, expected = server.judge("brain", "scan.nii.gz")
    assert set(np.unique(expected)) == {0, 1, 2}
    words = server.infer("brain", "scan", "json").json()
    for name, value in scored.case_score.as_dict().items():
        assert words[name] == pytest.approx(value, abs=1e-5), name
    assert words["label_names"] == LABELS
    label = tmp_path / "label.nii.gz"
    label.write_bytes(server.infer("brain", "scan", "image").content)
    served: Any = nib.load(label)
    np.testing.assert_allclose(served.affine, AFFINE, atol=1e-5)
    assert served.get_data_dtype() == np.uint8
    assert served.shape == expected.shape and (np.asarray(served.dataobj) != expected).sum() <= 2

    scored, expected = server.judge("xray", "photo.png")
    words = server.infer("xray", "photo", "json").json()
    assert words["score"] == pytest.approx(scored.case_score.score, abs=1e-5)
    assert words["flagged"] is scored.case_score.flagged
    label = tmp_path / "label.png"
    label.write_bytes(server.infer("xray", "photo", "image").content)
    levels = sitk.GetArrayFromImage(sitk.ReadImage(str(label)))
    assert levels.shape == expected.shape == (40, 30) and (levels != expected).sum() <= 2
    assert expected.max() >= 1

    assert server.infer("brain", "photo", "json").status_code == 500
    assert server.infer("brain", "scan", "json").status_code == 200
    assert "expected a volume like the training cases" in server.log.read_text()

"""Training and scoring as functions."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import aeflow
from aeflow import run
from pipelines.data.phantom.writer import ensure_phantom_dataset
from pipelines.runs import PLAN_NAME
from transforms.errors import InputError

TINY: dict[str, Any] = {
    "image_size": 32, "flow_steps": 1, "decoder_width": 4, "pretrain_epochs": 1,
    "pretrain_epoch_size": 16, "pretrain_batch_size": 16, "max_epochs": 1, "batch_size": 16,
    "tracking_uri": "none",
}  # fmt: skip


def test_from_normals_to_a_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = ensure_phantom_dataset(tmp_path / "data", patients=6, size=(48, 48, 16))
    hook = sys.excepthook
    trained = aeflow.train(data, preset=None, ensemble=2, **TINY)
    assert sys.excepthook is hook
    assert trained.report.is_file() and (trained.ckpt_dir / "model.pt").is_file()
    assert 0 <= trained.metrics["image_auroc"]["value"] <= 1
    scan = next(data.rglob("*flair.nii.gz"))
    done = aeflow.predict(scan, save_panels=False)
    scores = (done.output_dir / "scores.csv").read_text()
    assert "score_std" in scores.splitlines()[0] and done.report.is_file()
    found = aeflow.Predictor(trained.ckpt_dir)(scan)
    assert isinstance(found, aeflow.Prediction) and found.score_std is not None
    assert "±" in found.verdict
    assert (done.output_dir / "maps" / f"{found.name}_std.nii.gz").is_file()


def test_mistakes_are_errors_of_one_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hook = sys.excepthook
    with pytest.raises(InputError, match="there is no option|no such option"):
        aeflow.train(preset=None, max_epoch=3)
    with pytest.raises(InputError, match="refers to 'nowhere'"):
        aeflow.train("%nowhere", preset=None)
    with pytest.raises(InputError, match="there is no model file"):
        aeflow.evaluate(tmp_path)
    assert sys.excepthook is hook


def test_a_plain_folder_of_images_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "normals"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(1, 256, (32, 32), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    trained = aeflow.train(folder, preset=None, **TINY)
    assert "all are taken as normal" in capsys.readouterr().out
    assert trained.metrics["verdict"]["text"].startswith("Not to be judged: there is no anomalous")
    page = trained.report.read_text()
    for section in ("missing", "synthetic", "histogram", "panels"):
        assert f'<h2 id="{section}">' in page
    assert "Held-out normal images of the calibration" in page and "Grey are the 2" in page
    assert "small, 2 to 4 px" in page and "of 5 patients at least; there are none" in page
    found = trained.metrics["synthetic_detection"]
    assert found["images"] == 2 and len(found["rows"]) == 27
    assert not (trained.ckpt_dir / PLAN_NAME).exists()
    aeflow.train(folder, preset="quick", **TINY)
    plan = json.loads((trained.ckpt_dir / PLAN_NAME).read_text())
    assert plan["preset"]["value"] == "quick" and plan["configs"] == ["quick"]
    assert all(one["reason"] == "given by you" for one in plan["choices"])
    assert 0 < plan["expected_minutes"][1] and 0 < plan["took_minutes"]
    told = capsys.readouterr().out
    assert "pretrain 1 steps of" in told and "was expected." in told.splitlines()[-1]
    before, after = (
        torch.load(trained.ckpt_dir / name, weights_only=True)["model"]
        for name in ("previous.pt", "model.pt")
    )
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_is_plain(tmp_path: Path) -> None:
    (tmp_path / "one" / "anomalous").mkdir(parents=True)
    for place in (tmp_path / "a.png", tmp_path / "one" / "b.png"):
        Image.fromarray(np.ones((4, 4), np.uint8)).save(place)
    given = {"dataset_dir": str(tmp_path / "one")}
    assert run.suited(given) == {**given, "layout": "normals"}
    assert run.suited({**given, "layout": "folder"})["layout"] == "folder"
    for mixed in (str(tmp_path), str(tmp_path / "nowhere"), None):
        assert "layout" not in run.suited({"dataset_dir": mixed})

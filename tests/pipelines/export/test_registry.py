"""The scorer in the model registry, with a database."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipelines.data.cases import Case
from pipelines.data.slices import CaseLoader
from pipelines.export.registry import (
    ServedScorer,
    check_registry,
    package_scorer,
    pinned_requirements,
    register_scorer,
)
from pipelines.scoring.model_file import save_model
from pipelines.scoring.predictor import Predictor
from pipelines.tracking.outbox import send_untracked
from pipelines.tracking.tracker import Tracker
from tests.conftest import any_scope
from transforms.errors import InputError

COLUMNS = [
    "score",
    "flow_score",
    "recon_score",
    "density_score",
    "percentile",
    "p_value",
    "flagged",
]


@pytest.fixture
def scorer(make_scorer: Any, make_images: Any, calibrate: Any) -> Any:
    return calibrate(make_scorer(), make_images(16))


@pytest.fixture
def model_path(scorer: Any, tmp_path: Path, model_facts: dict[str, Any]) -> Path:
    facts = model_facts | {
        "preprocessing": CaseLoader(image_size=32, intensity="unit", channels=1).parameters,
        "modalities": ["image"],
        "volumetric": False,
        "layout": "folder",
        "split": {"train": ["JaneDoe-1"], "calibration": [], "test": []},
        "notes": ["JaneDoe-1 was skipped"],
        "case_scores": [],
        "case_weights": [],
        "target_fpr": 0.2,
        "created": "2026-01-01T00:00:00+0000",
    }
    save_model(tmp_path / "models" / "model.pt", scorer, facts)
    return tmp_path / "models" / "model.pt"


@pytest.fixture
def pictures(make_images: Any, tmp_path: Path) -> list[Path]:
    paths = []
    for number, image in enumerate(make_images(3, seed=5)):
        path = tmp_path / f"picture{number}.png"
        Image.fromarray((image[0].numpy() * 255).astype(np.uint8)).save(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'runs.db'}"


@pytest.fixture
def _global_uri(database: str) -> Any:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(database)
    yield
    mlflow.set_tracking_uri(before)


def expected(scorer: Any, images: torch.Tensor) -> dict[str, Any]:
    with torch.no_grad():
        scored = scorer.score_image(images)
    told = {name: getattr(scored, name) for name in ("score", "percentile", "flagged")}
    told["p_value"] = scorer.calibration.p_value(scored.score)
    told |= {f"{name}_score": value for name, value in scored.parts.items()}
    assert set(told) == set(COLUMNS)
    return {name: told[name].numpy() for name in COLUMNS}


@pytest.mark.usefixtures("_global_uri")
def test_a_registered_model_scores_as_the_scorer_does(
    scorer: Any,
    model_path: Path,
    make_images: Any,
    pictures: list[Path],
    database: str,
    tmp_path: Path,
) -> None:
    tracker = Tracker(str(tmp_path / "out"), database, "train")
    check_registry(tracker, "tiny")
    tracker.start({})
    register_scorer(tracker, "tiny", model_path)
    tracker.finish()
    assert not (tmp_path / "out" / "untracked").exists()

    model = mlflow.pyfunc.load_model("models:/tiny/1")
    images = make_images(5, seed=3)
    found = model.predict(images.numpy())
    assert list(found.columns) == COLUMNS and found["flagged"].dtype == bool
    for name, values in expected(scorer, images).items():
        np.testing.assert_allclose(found[name], values, atol=1e-6)
    mapped = model.predict(images.numpy(), params={"maps": True})
    with torch.no_grad():
        anomaly_map = scorer(images)[:, 0].numpy()
    np.testing.assert_allclose(np.array(mapped["anomaly_map"].tolist()), anomaly_map, atol=1e-5)
    assert model.metadata.signature.outputs.input_names()[-1] == "anomaly_map"

    by_path = model.unwrap_python_model().predict(pd.DataFrame({"path": list(map(str, pictures))}))
    exact = torch.stack([torch.from_numpy(np.array(Image.open(p)))[None] / 255 for p in pictures])
    assert list(by_path.columns) == ["path", *COLUMNS]
    one_by_one = [expected(scorer, one[None])["score"][0] for one in exact]
    np.testing.assert_allclose(by_path["score"], one_by_one, atol=1e-6)

    client = mlflow.MlflowClient()
    (version,) = client.search_model_versions("name='tiny'")
    assert client.get_run(version.run_id).info.run_name == tracker.run_name
    folder = Path(mlflow.artifacts.download_artifacts("models:/tiny/1"))
    assert not any(b"JaneDoe" in one.read_bytes() for one in folder.rglob("*") if one.is_file())
    assert not [one for one in folder.rglob("*") if one.suffix in (".pkl", ".pickle", ".pyc")]


def test_a_package_loads_where_only_the_dependencies_are(model_path: Path, tmp_path: Path) -> None:
    """Loaded elsewhere, without this checkout on the path."""
    package_scorer(model_path, tmp_path / "package")
    script = (
        "import sys, json, mlflow\n"
        "sys.path = [p for p in sys.path if p]\n"
        "model = mlflow.pyfunc.load_model('package')\n"
        "found = model.predict(model.input_example)\n"
        "import pipelines.export.registry, networks, transforms\n"
        "places = [m.__file__ for m in (pipelines.export.registry, networks, transforms)]\n"
        "json.dump({'places': places, 'score': float(found['score'][0])}, open('out.json', 'w'))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, timeout=300
    )
    told = json.loads((tmp_path / "out.json").read_text())
    assert all(Path(p).is_relative_to(tmp_path / "package" / "code") for p in told["places"])
    assert np.isfinite(told["score"])
    assert (tmp_path / "package" / "requirements.txt").read_text().split() == pinned_requirements()
    content = torch.load(tmp_path / "package" / "data" / "model.pt", weights_only=True)
    assert "model" in content and not {"split", "notes"} & set(content)


def test_requirements_are_pinned_without_build_labels() -> None:
    pins = dict(pin.split("==") for pin in pinned_requirements())
    assert {"torch", "monai", "mlflow", "nibabel"} <= set(pins)
    assert torch.__version__.startswith(pins["torch"]) and "+" not in "".join(pins.values())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 1, 16, 16), np.float32), r"shape \(N, 1, 32, 32\), found \(2, 1, 16, 16\)"),
        (np.zeros((0, 1, 32, 32), np.float32), "shape"),
        (np.zeros((1, 32, 32), np.float32), "shape"),
        (np.full((1, 1, 32, 32), 255.0), "found 255 to 255"),
        (np.full((1, 1, 32, 32), np.nan), "in .0, 1."),
        (pd.DataFrame({"file": ["a.png"]}), "column 'path', found .'file'."),
        (pd.DataFrame({"path": ["absent.png"]}), "absent.png"),
    ],
)
def test_images_that_cannot_be_scored_are_refused(
    model_path: Path, images: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ServedScorer(model_path).predict(images)


def test_a_volume_is_one_row(
    make_scorer: Any,
    make_images: Any,
    calibrate: Any,
    write_volume: Any,
    model_facts: dict[str, Any],
    tmp_path: Path,
) -> None:
    scorer = calibrate(make_scorer(channels=2, with_head=True), make_images(16, channels=2))
    facts = model_facts | {
        "preprocessing": CaseLoader(image_size=32, channels=2).parameters,
        "scope": any_scope(2),
        "case_scores": [-1.0, 0.0, 1.0],
        "case_weights": [1.0, 1.0, 1.0],
        "target_fpr": 0.25,
    }
    save_model(tmp_path / "model.pt", scorer, facts)
    paths = [str(write_volume("flair")), str(write_volume("t2", seed=1))]
    found = ServedScorer(tmp_path / "model.pt").predict(pd.DataFrame({"path": [paths, paths]}))
    assert len(found) == 2 and found["score"][0] == found["score"][1]
    assert list(found.columns) == ["path", *COLUMNS[:3], "head_score", *COLUMNS[3:]]
    assert set(found["flagged"]) <= {True, False}


@pytest.mark.parametrize("kind", ["volumes", "signals"])
def test_a_model_that_needs_more_than_images_takes_files(
    kind: str, write_model: Any, write_signal_model: Any, write_volume: Any, tmp_path: Path
) -> None:
    if kind == "signals":
        write_signal_model()
        path, told, parts = str(tmp_path / "a.npz"), "body beside the windows", ("probability",)
        values = np.random.default_rng(0).uniform(-1, 1, (2, 200))
        np.savez(path, signal=values, channels=["load", "rate"])
    else:
        write_model(normative=True)
        path, told = str(write_volume("flair")), "body, place beside the images"
        parts = ("bright", "dark")
    served = ServedScorer(tmp_path / "models" / "model.pt")
    with pytest.raises(InputError, match=f"needs {told}; give files"):
        served.predict(np.zeros((2, 1, 32, 32), np.float32))
    found = served.predict(pd.DataFrame({"path": [path]}))
    judged = Predictor(tmp_path / "models")(Case("a", "a", (Path(path),))).case_score.as_dict()
    for name in ("score", *(f"{part}_score" for part in parts)):
        assert found[name][0] == pytest.approx(judged[name]), name
    package_scorer(tmp_path / "models" / "model.pt", tmp_path / "package")
    again = mlflow.pyfunc.load_model(str(tmp_path / "package")).unwrap_python_model()
    assert again.predict(pd.DataFrame({"path": [path]}))["score"][0] == found["score"][0]


def test_a_second_training_is_the_next_version_and_a_repeated_sending_is_none(
    model_path: Path, database: str, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient(tracking_uri=database)
    for number in (1, 2):
        tracker = Tracker(str(tmp_path / "out"), database, "train")
        tracker.start({})
        register_scorer(tracker, "versions", model_path)
        register_scorer(tracker, "versions", model_path)
        tracker.finish()
        assert len(client.search_model_versions("name='versions'")) == number


def test_a_server_that_is_away_gets_the_model_later(
    model_path: Path, database: str, tmp_path: Path
) -> None:
    tracker = Tracker(str(tmp_path / "out"), "http://127.0.0.1:1", "train")
    tracker.patience = 0.0
    tracker.start({})
    register_scorer(tracker, "late", model_path)
    tracker.finish()
    folder = tmp_path / "out" / "untracked"
    assert len(list(folder.iterdir())) == 2  # the records and the package
    send_untracked(folder, database)
    client = mlflow.MlflowClient(tracking_uri=database)
    assert len(client.search_model_versions("name='late'")) == 1 and not folder.exists()


@pytest.mark.parametrize("name", ["a/b", "a:b", " ", 7])
def test_a_bad_name_is_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(InputError, match="register_model: expected a name"):
        check_registry(Tracker(str(tmp_path), "http://127.0.0.1:1"), name)


def test_registering_needs_tracking(tmp_path: Path, model_path: Path) -> None:
    tracker = Tracker(str(tmp_path), "none")
    check_registry(tracker, None)
    check_registry(tracker, "")
    with pytest.raises(InputError, match="register_model: .* tracking is off"):
        check_registry(tracker, "tiny")
    with pytest.raises(InputError, match="register_model: expected an open run"):
        register_scorer(tracker, "tiny", model_path)


def test_a_store_without_a_registry_is_refused(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise mlflow.exceptions.MlflowException("no registry here", error_code=404)

    monkeypatch.setattr(mlflow.MlflowClient, "search_registered_models", refuse)
    monkeypatch.setattr(mlflow.exceptions.MlflowException, "get_http_status_code", lambda _: 404)
    with pytest.raises(InputError, match="register_model: no models can be registered at"):
        check_registry(Tracker(str(tmp_path), database), "tiny")


def test_an_absent_server_may_have_a_registry_later(tmp_path: Path) -> None:
    check_registry(Tracker(str(tmp_path), "http://127.0.0.1:1"), "tiny")


def test_a_store_that_cannot_be_used_is_told_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "no.db").write_text("this is no database" * 100)
    with pytest.raises(InputError, match="tracking_uri: .* cannot be used as a database"):
        check_registry(Tracker(str(tmp_path), f"sqlite:///{tmp_path / 'no.db'}"), "tiny")

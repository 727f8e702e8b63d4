"""Every documented option changes something: what is trained, written, or refused."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import run

from pipelines.common.options import find_mistake
from pipelines.common.plain import plain_options
from pipelines.common.schema import Options
from pipelines.data.phantom.writer import ensure_phantom_dataset
from pipelines.scoring.model_file import MODEL_NAME

BUNDLE = Path(__file__).parents[2] / "bundles" / "aeflow"

TRAINING: dict[str, Any] = {
    "image_size": 32,
    "flow_steps": 2,
    "decoder_width": 4,
    "pretrain_epochs": 1,
    "pretrain_epoch_size": 16,
    "pretrain_batch_size": 16,
    "max_epochs": 2,
    "batch_size": 16,
    "target_fpr": 0.3,
    "tracking_uri": "none",
    "device": "cpu",
}
UP_TO_THE_MODEL = [
    "$@session.begin()",
    "$@train#stages.run()",
    "$@calibrator.run()",
    "$@session.save_model()",
]

CHANGED: dict[str, Any] = {
    "dataset_dir": "{other}",
    "layout": "folder",
    "modalities": "t2",
    "channels": 2,
    "patient_pattern": "(",
    "split": "nowhere.json",
    "fractions": [0.4, 0.4, 0.2],
    "axis": "coronal",
    "image_size": 48,
    "intensity": "unit",
    "n4": True,
    "slice_range": [4, 6],
    "min_body_fraction": 0.3,
    "region": "lungs",
    "patch_size": [16, 32, 32],
    "fillings": ["haze"],
    "withheld": "opacity",
    "labelled_anomalies": "nowhere",
    "contrast": "local",
    "ensemble": 2,
    "encoder": "resnet34",
    "encoder_weights": "nowhere.pth",
    "flow_strides": [8],
    "head_strides": [16],
    "flow_steps": 1,
    "subnet": "resnet",
    "hidden": 8,
    "scale": "clamped_exp",
    "decoder_width": 8,
    "pretrain_epochs": 2,
    "pretrain_minutes": 0.02,
    "pretrain_epoch_size": 48,
    "pretrain_batch_size": 8,
    "pretrain_learning_rate": 0.01,
    "pretrain_weight_decay": 0.5,
    "max_epochs": 1,
    "batch_size": 8,
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "max_grad_norm": 0.01,
    "alpha": 0.9,
    "val_interval": 2,
    "score": "flow",
    "weights": {"flow": 1},
    "map_weights": {"flow": 1},
    "map_pool": 0.5,
    "normative_share": 0.1,
    "flow_pool": 0.1,
    "head_pool": 0.9,
    "target_fpr": 0.5,
    "pixel_fpr": 0.2,
    "ckpt_dir": "{folder}/elsewhere",
    "tracking_uri": "sqlite:///{folder}/runs.db",
    "register_model": "scorer",
    "resume": "nowhere.pt",
    "checkpoint_epochs": 2,
    "checkpoint_minutes": 1e-9,
    "seed": 1,
    "device": "cuda:99",
    "max_gigabytes": 1e-6,
    "encoder_sha256": "abc",
    "max_seconds": 1e-9,
}
"""What each option of a training is set to, where what is trained or told must change."""

WITH: dict[str, dict[str, Any]] = {
    "clamp": {"clamp": 0.1, "scale": "clamped_exp"},
    "beta": {"beta": 0.1, "score": "paper"},
    "margin": {"margin": 0.0, "weights": {"flow": 1.0}},
}
"""Options that matter beside another one."""

RESULTS: dict[str, dict[str, Any]] = {
    "min_lesion_pixels": {"min_lesion_pixels": 1},
    "normal_margin": {"normal_margin": 3},
    "save_maps": {"save_maps": False},
    "output_dir": {"output_dir": "{folder}/elsewhere"},
}
"""Options of a training that its results alone tell of."""

EVALUATION: dict[str, Any] = {"cases": "Phantom_00000", "limit": 1}
INFERENCE: dict[str, Any] = {"input": "{folder}/nowhere.nii", "save_panels": False}

COMPARISON = {"methods", "seeds", "minutes", "parallel", "configs"}
"""Options that ``bundles/test_comparing.py`` looks at."""

ELSEWHERE = {
    "series_uid": "bundles/test_options.py",
    "all_series": "bundles/test_options.py",
    "resample": "transforms/test_resample.py",
    "overlap": "pipelines/data/test_patches.py",
    "save_dicom": "bundles/test_inferring.py",
    "window": "pipelines/data/test_signals.py",
    "stride": "pipelines/data/test_signals.py",
    "very_suspicious": "pipelines/scoring/test_bands.py",
    "fit_weights": "pipelines/scoring/test_weights.py",  # with the 20 patients that it needs
    "cache_gigabytes": "pipelines/training/test_cache.py",  # it changes no result
    "num_workers": "pipelines/data/test_datasets.py",  # nor does this
    "compile": "pipelines/common/test_devices.py",  # nor this
    "system_metrics": "pipelines/tracking/test_system.py",
}
"""Options that tests of their own look at."""

ON_A_GPU = {"amp"}
"""Options that change nothing without one."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes phantoms of a size, once."""
    folder = tmp_path_factory.mktemp("data")

    def make(size: int, patients: int = 6) -> Path:
        return ensure_phantom_dataset(folder, patients=patients, size=(size, size, 10))

    return make


@pytest.fixture
def outcome(
    data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Runs a bundle's config and gives all that can be told of it from outside."""
    for limit in ("AEFLOW_MAX_GIGABYTES", "AEFLOW_MAX_SECONDS"):
        monkeypatch.setenv(limit, "100")  # so that what a run sets is undone
    saves: list[Any] = []
    genuine = torch.save
    monkeypatch.setattr(torch, "save", lambda *given: (saves.append(1), genuine(*given))[1])
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("pipelines")

    def attempt(config: str, run_id: str, folder: Path, **options: Any) -> dict[str, Any]:
        def filled(value: Any) -> Any:
            kinds = {"folder": folder, "other": data(44)}
            return value.format(**kinds) if isinstance(value, str) and "{" in value else value

        saves.clear(), lines.clear()
        logger.addHandler(handler)
        places = {"output_dir": str(folder / "output"), "ckpt_dir": str(folder / "models")}
        given = {**places, **{name: filled(value) for name, value in options.items()}}
        told = ""
        try:
            run(run_id, config_file=str(BUNDLE / f"{config}.json"), **given)
        except Exception as error:
            told = find_mistake(error) or ""
            assert told, f"a traceback: {error!r}"
        finally:
            logger.removeHandler(handler)
        return {
            "mistake": told.replace(str(folder), ""),
            "files": sorted(
                str(path.relative_to(folder))
                for path in folder.rglob("*")
                if path.is_file() and "checkpoint" not in path.name
            ),
            "weights": [_weights(path) for path in folder.rglob(MODEL_NAME)],
            "scores": [path.read_text() for path in folder.rglob("scores.csv")],
            "saves": len(saves),
            "said": sum("held-out" in line for line in lines),
        }

    return attempt


def _weights(path: Path) -> str:
    found = hashlib.sha256()
    for name, value in torch.load(path, weights_only=True)["model"].items():
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def options_of(config: str) -> set[str]:
    return set(plain_options(json.loads((BUNDLE / f"{config}.json").read_text())))


def test_every_option_is_looked_at() -> None:
    assert all((Path(__file__).parents[1] / file).is_file() for file in ELSEWHERE.values())
    ours = {*CHANGED, *WITH, *RESULTS, *ELSEWHERE, *ON_A_GPU}
    assert options_of("train") <= ours
    assert options_of("evaluate") - options_of("train") <= {*EVALUATION, *ELSEWHERE}
    assert options_of("inference") - options_of("train") <= {*INFERENCE, *ELSEWHERE}
    assert options_of("compare") - options_of("train") == COMPARISON
    assert set(Options.model_fields) <= {*ours, *EVALUATION, *INFERENCE, *COMPARISON}


@pytest.fixture(scope="module")
def usual() -> dict[str, dict[str, Any]]:
    """What runs without a change come to, each made once."""
    return {}


@pytest.mark.parametrize("name", [*CHANGED, *WITH])
def test_what_is_trained_changes(
    name: str, outcome: Any, usual: Any, data: Any, tmp_path: Path
) -> None:
    changed = WITH.get(name) or {name: CHANGED[name]}
    beside = {other: value for other, value in changed.items() if other != name}
    given = {**TRAINING, "dataset_dir": str(data(40)), "training": UP_TO_THE_MODEL, **beside}
    if str(beside) not in usual:
        usual[str(beside)] = outcome("train", "training", tmp_path / "usual", **given)
        assert usual[str(beside)]["weights"]
    found = outcome("train", "training", tmp_path / "changed", **given | changed)
    assert found != usual[str(beside)]


@pytest.mark.parametrize("name", RESULTS)
def test_the_results_of_a_training_change(
    name: str, outcome: Any, usual: Any, data: Any, tmp_path: Path
) -> None:
    given = {**TRAINING, "dataset_dir": str(data(40))}
    if "results" not in usual:
        usual["results"] = outcome("train", "training", tmp_path / "usual", **given)
        assert usual["results"]["scores"]
    found = outcome("train", "training", tmp_path / "changed", **given | RESULTS[name])
    assert found != usual["results"]


@pytest.mark.parametrize("name", [*EVALUATION, *INFERENCE])
def test_what_a_model_is_used_for_changes(
    name: str, outcome: Any, usual: Any, data: Any, tmp_path: Path
) -> None:
    scans = data(40, patients=10)
    outcome(
        "train", "training", tmp_path, **TRAINING, dataset_dir=str(scans),
        training=UP_TO_THE_MODEL,
    )  # fmt: skip
    if name in EVALUATION:
        how = ("evaluate", "evaluating")
        given = {"dataset_dir": str(scans), "tracking_uri": "none"}
    else:
        how = ("inference", "inferring")
        given = {"input": str(next(scans.rglob("*flair.nii.gz")))}
    given |= {"ckpt_dir": str(tmp_path / "models")}
    before = outcome(*how, tmp_path / "usual", **given)
    assert before["scores"]
    changed = INFERENCE if name == "input" else {name: (EVALUATION | INFERENCE)[name]}
    assert outcome(*how, tmp_path / "changed", **given | changed) != before

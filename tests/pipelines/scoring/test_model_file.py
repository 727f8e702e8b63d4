"""The model file."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from networks import AnomalyScorer
from pipelines.scoring.model_file import (
    MODEL_NAME,
    OF_THE_SCORER,
    load_scorer,
    read_model,
    save_model,
)
from transforms.errors import InputError

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]
Calibrate = Callable[[AnomalyScorer, Tensor], AnomalyScorer]


@pytest.fixture
def scorer(make_scorer: MakeScorer, make_images: MakeImages, calibrate: Calibrate) -> AnomalyScorer:
    settings: dict[str, Any] = {"flow_pool": 0.4, "smoothing": 1.0}
    settings["weights"] = settings["map_weights"] = {"flow": 0.7, "recon": 0.3}
    return calibrate(make_scorer(strides=(8, 16), **settings), make_images(6))


def test_a_model_scores_as_before(
    tmp_path: Path, scorer: AnomalyScorer, make_images: MakeImages, model_facts: dict[str, Any]
) -> None:
    path = tmp_path / "models" / MODEL_NAME
    save_model(path, scorer, model_facts)
    image = make_images(3, seed=1)
    expected = scorer.score_image(image)
    for where in (path, path.parent, str(path)):
        loaded = load_scorer(read_model(where))
        assert not loaded.training and loaded.detector.config == scorer.detector.config
        assert loaded.fusion.config == scorer.fusion.config
        found = loaded.score_image(image)
        for name in ("score", "percentile", "flagged", "anomaly_map", "reconstruction"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_a_paper_s_score_comes_back(
    tmp_path: Path,
    make_scorer: MakeScorer,
    make_images: MakeImages,
    calibrate: Calibrate,
    model_facts: dict[str, Any],
) -> None:
    scorer, image = make_scorer(score="paper", beta=0.7), make_images(3, seed=1)
    save_model(tmp_path / MODEL_NAME, calibrate(scorer, make_images(6)), model_facts)
    loaded = load_scorer(read_model(tmp_path))
    assert loaded.fusion.config == scorer.fusion.config and loaded.fusion.config["beta"] == 0.7
    assert torch.equal(loaded.score_image(image).score, scorer.score_image(image).score)


def test_the_file_holds_plain_values_only(
    tmp_path: Path, scorer: AnomalyScorer, model_facts: dict[str, Any]
) -> None:
    save_model(tmp_path / MODEL_NAME, scorer, model_facts)
    content = torch.load(tmp_path / MODEL_NAME, weights_only=True)
    assert set(content) == {*OF_THE_SCORER, *model_facts}
    assert content["detector"] == "aeflow" and content["config"]["flow_strides"] == (8, 16)
    assert content["modalities"] == ["flair"]
    assert all(isinstance(value, Tensor) for value in content["model"].values())
    assert {
        f"calibration.{name}" for name in ("threshold", "quantiles", "n_normal", "target_fpr")
    } <= set(content["model"])


def test_a_failing_write_keeps_the_old_model(
    tmp_path: Path,
    scorer: AnomalyScorer,
    monkeypatch: pytest.MonkeyPatch,
    model_facts: dict[str, Any],
) -> None:
    path = tmp_path / MODEL_NAME
    save_model(path, scorer, model_facts)
    before = path.read_bytes()

    def fail(content: Any, where: Path) -> None:
        Path(where).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(path, scorer, model_facts)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_scorer_must_be_calibrated(
    tmp_path: Path, make_scorer: MakeScorer, model_facts: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="calibrate it before saving"):
        save_model(tmp_path / MODEL_NAME, make_scorer(), model_facts)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_its_config_does_not_rebuild_is_refused(
    tmp_path: Path, scorer: AnomalyScorer, model_facts: dict[str, Any]
) -> None:
    scorer.detector.config = {"in_channels": 1}  # as of one assembled by hand
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="a detector that its config rebuilds, found 'aeflow'"):
        save_model(tmp_path / MODEL_NAME, scorer, model_facts)
    assert list(tmp_path.iterdir()) == [] and torch.equal(torch.random.get_rng_state(), state)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"ckpt_dir: there is no model file .*{MODEL_NAME}"):
        read_model(tmp_path)


def write_damaged(path: Path) -> None:
    torch.save({"format": 2, "model": {"weight": torch.rand(1000)}}, path)
    path.write_bytes(path.read_bytes()[:-500])


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "not a model")


@pytest.mark.parametrize(
    "write",
    [
        write_damaged,
        write_zip,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
        lambda path: path.write_text('{"format": 2}'),
        lambda path: path.write_text("weights"),
        lambda path: path.write_bytes(b"\x1f\x8b" + bytes(100)),
        lambda path: torch.save(torch.nn.Linear(1, 1), path),  # an object, not plain values
    ],
    ids=["damaged", "zip", "empty", "png", "json", "text", "gzip", "object"],
)
def test_a_damaged_or_foreign_file_is_told(tmp_path: Path, write: Callable[[Path], object]) -> None:
    write(tmp_path / MODEL_NAME)
    with pytest.raises(InputError, match="ckpt_dir: .* is damaged or no PyTorch file"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"format": 1, "model": {}}, "found 1"),
        ({"state_dict": {}}, "found None"),
        ([1, 2], "found 'list'"),
    ],
)
def test_another_format_is_told(tmp_path: Path, content: Any, found: str) -> None:
    torch.save(content, tmp_path / MODEL_NAME)
    with pytest.raises(InputError, match=f"is not an AE-Flow model of format 4 .{found}"):
        read_model(tmp_path)


def test_a_detector_of_another_installation_is_told(
    tmp_path: Path, scorer: AnomalyScorer, model_facts: dict[str, Any]
) -> None:
    save_model(tmp_path / MODEL_NAME, scorer, model_facts)
    content = read_model(tmp_path) | {"detector": "aeflo"}
    with pytest.raises(InputError, match="detector 'aeflo' is not known here.*'aeflow'"):
        load_scorer(content)

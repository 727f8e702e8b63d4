"""What a training will do: chosen by machine and data, and told before it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aeflow import planning
from aeflow.commands import config_names
from aeflow.plan import Plan
from aeflow.planning import GIVEN, make_plan
from aeflow.timing import Expected, Stage
from pipelines.common import find_mistake
from pipelines.data.phantom.writer import ensure_phantom_dataset
from pipelines.runs import PLAN_NAME
from transforms.errors import InputError

SMALL = {"flow_steps": 1, "decoder_width": 4, "ckpt_dir": "models"}
SECONDS = Expected(30.0, {"pretrain": Stage(60.0, 80.0, 8), "train": Stage(30.0, 40.0, 4)})


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Any]:
    """Options of a training on a dozen pictures of 40 by 30 pixels."""
    folder = tmp_path / "normals"
    folder.mkdir()
    for number in range(12):
        levels = np.random.default_rng(number).integers(1, 256, (30, 40), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{number}.png")
    return {**SMALL, "dataset_dir": str(folder), "layout": "normals"}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = ensure_phantom_dataset(tmp_path_factory.mktemp("p"), patients=6, size=(48, 48, 16))
    return {**SMALL, "dataset_dir": str(folder)}


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The configs that would have been timed."""
    configs: list[dict[str, Any]] = []

    def measure(config: dict[str, Any], *_: Any) -> Expected:
        configs.append(config)
        return SECONDS

    monkeypatch.setattr(planning, "measure", measure)
    return configs


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = SimpleNamespace(name="A GPU", total_memory=2**33)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)


def values(plan: Plan) -> dict[str, Any]:
    return {one.option: one.value for one in plan.choices}


def test_pictures_on_processors(pictures: dict[str, Any]) -> None:
    plan = make_plan("auto", {**pictures, "device": "cpu"})
    assert plan.preset.value == "standard" and plan.configs == ()
    assert values(plan) == {"image_size": 48, "pretrain_epochs": 13, "max_epochs": 6}
    assert plan.options["image_size"] == 48 and "max_epochs" not in plan.options
    told = " ".join(str(plan).split())
    assert "12 pictures in the layout normals (image), sides up to 40 pixels" in told
    assert "no GPU in use" in told and "--region lungs --contrast local" in told
    assert "2 held-out normal patients support a false-positive rate of 0.333, which is" in told
    assert "0.05 needs 19: some 95 normal patients" in told
    assert plan.expected is not None and set(plan.expected.stages) == {"pretrain", "train"}
    assert plan.expected.reading > 0
    assert all(0 < one.least <= one.most for one in plan.expected.stages.values())
    assert plan.expected.stages["pretrain"].steps == 13 * 32  # 32 rounds of 32 are 1024 images
    low, high = plan.expected.minutes
    assert 0 < low < high


def test_signals_are_recognised(tmp_path: Path, untimed: list[dict[str, Any]]) -> None:
    np.save(tmp_path / "recording.npy", np.sin(np.arange(3000) / 7))
    plan = make_plan("quick", {**SMALL, "dataset_dir": str(tmp_path), "window": 48})
    assert plan.configs == ("signals", "quick") and values(plan)["window"] == 48
    assert untimed[0]["spatial_dims"]["signals"] is True
    assert "signals" in plan.facts["data"] and "windows of 48 samples" in plan.facts["data"]


def test_volumes_on_a_gpu(
    volumes: dict[str, Any], gpu: None, untimed: list[dict[str, Any]]
) -> None:
    plan = make_plan("standard", volumes)
    assert plan.configs == ("gpu", "gpu_volumes") == make_plan("best", volumes).configs
    assert values(plan) == {"image_size": 48, "pretrain_epochs": 30, "max_epochs": 10}
    assert untimed[0]["encoder"] == "resnet34" and untimed[0]["image_size"] == 48
    told = " ".join(str(plan).split())
    assert "A GPU with 8 GiB" in told and "normal slices to train" in told
    assert "gpu.json and gpu_volumes.json" in told and "--region lungs" not in told
    assert "2:00 to 3:45" in told and "pretrain 8 steps of 7.5 to 10 s" in told
    assert make_plan("auto", {**volumes, "device": "cpu"}).configs == ()


def test_volumes_in_three_dimensions(
    volumes: dict[str, Any], untimed: list[dict[str, Any]]
) -> None:
    plan = make_plan("volumes", {**volumes, "device": "cpu"})
    assert plan.configs == ("volumes",)
    assert config_names("volumes", gpu=True, volumetric=True) == ("gpu", "volumes")
    assert values(plan)["image_size"] == 48 and values(plan)["patch_size"] == [16, 48, 48]
    told = " ".join(str(plan).split())
    assert "[16, 48, 48]: this preset's, within image_size" in told
    assert "normal patches to train" in told
    small = make_plan("volumes", {**volumes, "device": "cpu", "image_size": 32})
    assert values(small)["patch_size"] == [16, 32, 32]


def test_pictures_on_a_gpu(
    pictures: dict[str, Any], gpu: None, untimed: list[dict[str, Any]]
) -> None:
    assert make_plan("auto", pictures).configs == ("gpu",)
    assert make_plan("quick", pictures).configs == ("quick",)
    paper = make_plan("paper", pictures)
    assert paper.configs == ("paper",) and values(paper)["image_size"] == 256


def test_what_is_given_stands(pictures: dict[str, Any], untimed: list[dict[str, Any]]) -> None:
    given = {**pictures, "image_size": 64, "max_epochs": 3, "pretrain_minutes": 2}
    plan = make_plan("best", given)
    reasons = {one.option: one.reason for one in plan.choices}
    assert reasons["image_size"] == reasons["max_epochs"] == GIVEN
    assert "stands in its place" in reasons["pretrain_epochs"]
    assert plan.preset.reason.startswith(GIVEN) and plan.options == given
    assert untimed[0]["image_size"] == 64 and "without one it takes long" in str(plan)


def test_many_images_are_gone_through_less_often(
    pictures: dict[str, Any], untimed: list[dict[str, Any]]
) -> None:
    plan = make_plan("auto", {**pictures, "pretrain_epoch_size": 2})
    assert values(plan)["pretrain_epochs"] == 3 and values(plan)["max_epochs"] == 2
    assert untimed[0]["pretrain_epochs"] == 3


def test_little_memory_makes_images_small_or_is_refused(
    pictures: dict[str, Any], monkeypatch: pytest.MonkeyPatch, untimed: list[dict[str, Any]]
) -> None:
    per_pixel = 5 * 10 / planning.GIB  # an image and its body, of ten pictures
    monkeypatch.setattr(planning, "LEAST_SIZE", 32)
    monkeypatch.setattr(planning, "free_memory", lambda: per_pixel * 40**2 / planning.MEMORY_SHARE)
    assert values(make_plan("auto", pictures))["image_size"] == 32
    monkeypatch.setattr(planning, "free_memory", lambda: per_pixel * 20**2 / planning.MEMORY_SHARE)
    with pytest.raises(InputError, match="dataset_dir: about 10 normal slices need"):
        make_plan("auto", pictures)
    assert len(untimed) == 1


def test_batches_fit_the_gpu(pictures: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(config: dict[str, Any], *_: Any) -> Expected:
        if config["pretrain_batch_size"] > 8:
            raise torch.OutOfMemoryError
        return SECONDS

    monkeypatch.setattr(planning, "measure", measure)
    plan = make_plan("auto", pictures)
    assert plan.options["pretrain_batch_size"] == plan.options["batch_size"] == 8
    assert "batch_size 8: what fits the GPU" in " ".join(str(plan).split())
    with pytest.raises(torch.OutOfMemoryError):
        make_plan("auto", {**pictures, "batch_size": 32})


def test_too_few_normals_are_told_before_any_is_read(
    pictures: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in sorted(Path(pictures["dataset_dir"]).iterdir())[2:]:
        path.unlink()
    monkeypatch.setattr(planning.Sample, "of", lambda *_: pytest.fail("it was read"))
    with pytest.raises(RuntimeError) as caught:  # MONAI's
        make_plan("auto", pictures)
    assert "expected at least 3 patients" in str(find_mistake(caught.value))
    with pytest.raises(InputError, match="max_epoch: there is no such option. Did you mean"):
        make_plan("auto", {"max_epoch": 3})


def test_a_plan_is_kept_beside_the_model_it_made(
    pictures: dict[str, Any], untimed: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    model, kept = folder / "model.pt", folder / PLAN_NAME
    plan = make_plan("quick", {**pictures, "ckpt_dir": str(folder)})
    with pytest.raises(RuntimeError), plan.kept():
        raise RuntimeError
    model.write_text("of an earlier training")
    with pytest.raises(RuntimeError), plan.kept():
        raise RuntimeError
    assert list(folder.iterdir()) == [model]
    with pytest.raises(RuntimeError), plan.kept():
        model.unlink()
        model.write_text("whole, before one case failed")
        raise RuntimeError
    assert '"value": "quick"' in kept.read_text() and str(tmp_path) not in kept.read_text()

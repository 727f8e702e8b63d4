"""A packaged bundle: what is in it, and that it runs with nothing else."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from pipelines.data.cases import Case
from pipelines.data.cohort import PHANTOM_NOTE
from pipelines.data.phantom.writer import ensure_phantom_dataset
from pipelines.export import package
from pipelines.export.package import (
    NOTES_REMOVED,
    main,
    package_bundle,
    packaged_metadata,
    without_names,
)
from pipelines.scoring.model_file import read_model
from pipelines.scoring.predictor import Predictor
from transforms.errors import InputError

BUNDLE = Path(__file__).parents[3] / "bundles" / "aeflow"
METADATA: dict[str, Any] = json.loads((BUNDLE / "metadata.json").read_text())
NAMES = {"train": ["Doe_Jane", "Roe"], "calibration": ["Poe"], "test": ["Moe"]}
WriteModel = Callable[..., dict[str, Any]]


@pytest.fixture
def models(write_model: WriteModel, tmp_path: Path) -> Path:
    """Folder of a model that knows names."""
    notes = [PHANTOM_NOTE, "1 case without a mask: Doe_Jane."]
    write_model(split=NAMES, seen=["0123456789abcdef"], notes=notes)
    return tmp_path / "models"


def test_the_layout_is_that_of_the_model_zoo(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    package_bundle(BUNDLE, models, out, keep_names=True)
    assert [one.name for one in out.parent.iterdir()] == ["here"]
    assert {one.name for one in out.iterdir()} == {
        *("configs", "models", "docs", "LICENSE", "networks", "pipelines", "transforms")
    }
    configs = {one.name for one in (out / "configs").iterdir()}
    assert configs == {one.name for one in BUNDLE.iterdir() if one.suffix in (".json", ".conf")}
    for name in ("train.json", "evaluate.json", "inference.json"):
        assert (out / "configs" / name).read_text() == (BUNDLE / name).read_text()
    assert [one.name for one in (out / "models").iterdir()] == ["model.pt"]
    assert (out / "models" / "model.pt").read_bytes() == (models / "model.pt").read_bytes()
    assert (out / "pipelines" / "report" / "templates" / "report.html.j2").is_file()
    assert (out.stat().st_mode & 0o777, (out / "LICENSE").stat().st_mode & 0o444) == (0o755, 0o444)
    readme = (out / "docs" / "README.md").read_text()
    before, run, after = (BUNDLE / "docs" / "README.md").read_text().partition("## How to run it")
    assert readme.startswith(before) and readme.endswith(after[after.index("## Intended use") :])
    assert run not in readme and "bundles/aeflow" not in readme and "{" not in readme
    assert "the names of the 4 cases" in readme and "from volumes of flair" in readme
    for path in out.rglob("*"):
        assert path.name[0] != "." and path.suffix != ".pyc", path
        assert "__pycache__" not in path.parts and "tests" not in path.relative_to(out).parts
        if path.is_file() and path.suffix != ".pt":
            assert "Doe_Jane" not in path.read_text() and str(tmp_path) not in path.read_text()


def test_what_is_no_code_is_left_out(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "networks"
    for name in ("flow.py", "sub/a.py", "py.typed", "page.j2", "sub/__pycache__/a.pyc", "b.pyc"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).touch()
    for name in (".hidden", ".cache/x.py", "flow.py~"):
        (code / name).parent.mkdir(exist_ok=True)
        (code / name).touch()
    monkeypatch.setattr(package, "code_folders", lambda: [code])
    package_bundle(BUNDLE, models, tmp_path / "out")
    packed = tmp_path / "out" / "networks"
    files = {str(one.relative_to(packed)) for one in packed.rglob("*") if one.is_file()}
    assert files == {"flow.py", "sub/a.py", "py.typed", "page.j2"}


def test_names_can_be_left_out(models: Path, tmp_path: Path) -> None:
    package_bundle(BUNDLE, models, tmp_path / "out")
    assert b"Doe" not in (tmp_path / "out" / "models" / "model.pt").read_bytes()
    before, after = read_model(models), read_model(tmp_path / "out" / "models")
    assert after["split"] == {
        "train": ["train-1", "train-2"],
        "calibration": ["calibration-1"],
        "test": ["test-1"],
    }
    assert after["notes"] == [PHANTOM_NOTE, NOTES_REMOVED] and after["seen"] == before["seen"]
    for part in ("model", "scope"):
        for name, value in before.pop(part).items():
            torch.testing.assert_close(after[part][name], value, rtol=0, atol=0)
    changed = {name for name, value in before.items() if after[name] != value}
    assert changed == {"split", "notes"}
    assert "were removed" in (tmp_path / "out" / "docs" / "README.md").read_text()


def test_names_stay_where_nothing_else_tells_seen_cases() -> None:
    content = {"split": NAMES, "seen": [], "notes": []}
    with pytest.raises(InputError, match="knows the cases that it has seen by their names alone"):
        without_names(content)
    unused: dict[str, list[str]] = {"train": [], "calibration": []}
    numbered = without_names({"split": {**unused, "test": ["a"]}, "notes": []})
    assert numbered == {"split": {**unused, "test": ["test-1"]}, "notes": []}


def test_metadata_tell_channels_and_labels() -> None:
    content = {"config": {"in_channels": 2}, "modalities": ["flair", "t2"]}
    found = packaged_metadata(METADATA, content)
    tensors = found["network_data_format"]
    assert list(tensors["inputs"]) == ["image"] and list(tensors["outputs"]) == ["pred"]
    image, pred = tensors["inputs"]["image"], tensors["outputs"]["pred"]
    assert image["num_channels"] == 2 and image["modality"] == "flair, t2"
    assert image["channel_def"] == {"0": "flair", "1": "t2"}
    assert pred["channel_def"] == {"0": "background", "1": "suspicious", "2": "very suspicious"}
    assert set(found) == set(METADATA)
    colours = {"config": {"in_channels": 3}, "modalities": ["image"]}
    image = packaged_metadata(METADATA, colours)["network_data_format"]["inputs"]["image"]
    assert image["channel_def"] == {"0": "image 0", "1": "image 1", "2": "image 2"}


def test_metadata_and_card_of_signals_tell_windows(
    write_signal_model: WriteModel, tmp_path: Path
) -> None:
    write_signal_model()
    package_bundle(BUNDLE, tmp_path / "models", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())
    tensors = found["network_data_format"]
    image, pred = tensors["inputs"]["image"], tensors["outputs"]["pred"]
    for one in (image, pred):
        assert (one["type"], one["format"], one["spatial_shape"]) == ("series", "sequence", [64])
    assert image["num_channels"] == 2 and image["channel_def"] == {"0": "load", "1": "rate"}
    assert "normal signals" in pred["channel_def"]["0"] and set(found) == set(METADATA)
    card = (tmp_path / "out" / "docs" / "README.md").read_text()
    assert "signals of load, rate; its network sees windows of 64 samples" in card
    assert "'configs/signals.json'" in card and "--input <signal or folder>" in card
    assert "MONAI Label does not serve" in card and "monaibundle" not in card and "{" not in card


@pytest.mark.parametrize("what", ["file", "filled", "inside", "bundle", "model"])
def test_mistakes_leave_nothing_behind(what: str, models: Path, tmp_path: Path) -> None:
    bundle, ckpt_dir, output = BUNDLE, models, tmp_path / "place" / "out"
    output.parent.mkdir()
    said = {
        "file": "is a file",
        "filled": "is a folder that is not empty",
        "inside": "which is packed itself",
        "bundle": "lacks evaluate.json, inference.json",
        "model": "there is no model file",
    }[what]
    if what == "file":
        output.write_text("precious")
    elif what == "filled":
        output.mkdir()
        (output / "precious.txt").write_text("precious")
    elif what == "inside":
        output = BUNDLE / "out"
    elif what == "bundle":
        bundle = tmp_path / "bundle"
        bundle.mkdir()
        (bundle / "train.json").write_text("{}")
    else:
        ckpt_dir = tmp_path / "nowhere"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=said):
        package_bundle(bundle, ckpt_dir, output)
    assert sorted(tmp_path.rglob("*")) == before and not (BUNDLE / "out").exists()


def test_a_package_appears_whole_or_not_at_all(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(package, "describe_package", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="disk is full"):
        package_bundle(BUNDLE, models, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_an_empty_folder_is_taken_and_the_command_tells_of_names(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    given = [str(BUNDLE), "--ckpt_dir", str(models), "--output", str(tmp_path / "out")]
    main(given)
    assert "case names removed (see --keep_names)" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(given)
    assert left.value.code == 1 and "Error: output: " in capsys.readouterr().err
    main([*given[:-1], str(tmp_path / "other"), "--keep_names"])
    assert "case names of 4 cases are in it" in capsys.readouterr().out


def test_the_model_is_the_bundle_s_own_unless_told_otherwise(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "clone" / "bundles" / "aeflow"
    shutil.copytree(BUNDLE, bundle, ignore=shutil.ignore_patterns("models", "output"))
    shutil.copytree(models, bundle / "models")
    shutil.copyfile(BUNDLE.parents[1] / "LICENSE", tmp_path / "clone" / "LICENSE")
    main([str(bundle), "--output", str(tmp_path / "out"), "--keep_names"])
    packed = tmp_path / "out" / "models" / "model.pt"
    assert packed.read_bytes() == (models / "model.pt").read_bytes()
    assert "packaged" in capsys.readouterr().out


def run_package(folder: Path, commands: list[list[str]]) -> str:
    """Runs ``python -m monai.bundle run`` per command, from a folder and with no other code.

    Without site (-S) no .pth file makes the clone known; one process imports the libraries once.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MLFLOW"))}
    script = (
        "import json, runpy, sys\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['monai.bundle', 'run', *command]\n"
        "    runpy.run_module('monai.bundle', run_name='__main__')\n"
    )
    found = subprocess.run(
        [sys.executable, "-S", "-B", "-c", script, json.dumps(commands)],
        cwd=folder,
        env=kept | {"PYTHONPATH": sysconfig.get_path("purelib")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-3000:]
    return found.stdout


def test_a_package_scores_and_trains_without_the_clone(
    write_model: WriteModel, write_volume: Callable[..., Path], tmp_path: Path
) -> None:
    write_model()
    folder, out, new = tmp_path / "aeflow", tmp_path / "out", tmp_path / "new"
    package_bundle(BUNDLE, tmp_path / "models", folder)
    code = folder / "pipelines" / "runs" / "inference.py"
    code.write_text(code.read_text().replace('f"Scored {', 'f"Scored by the package: {'))
    image = write_volume("scan")
    data = ensure_phantom_dataset(tmp_path / "data", patients=6, size=(32, 32, 12))
    inferring = [
        *("inferring", "--config_file=configs/inference.json", "--save_panels=False"),
        *(f"--input={image}", f"--output_dir={out}"),
    ]
    training = [
        *("training", "--config_file=configs/train.json", "--tracking_uri=none"),
        *(f"--dataset_dir={data}", f"--ckpt_dir={new}", "--image_size=32", "--flow_steps=1"),
        *("--decoder_width=4", "--pretrain_epochs=0", "--max_epochs=1", "--target_fpr=0.2"),
    ]
    told = run_package(folder, [inferring, training])
    assert "Scored by the package: 1 image," in told
    written: Any = nib.load(out / "maps" / "scan_anomaly.nii.gz")
    found = Predictor(tmp_path / "models")(Case("scan", "scan", (image,)))
    expected = found.grid_map.as_tensor().numpy()
    np.testing.assert_allclose(np.asarray(written.dataobj), expected, atol=1e-5)
    assert np.abs(expected).max() > 0.1
    assert read_model(new)["split"]["train"], told
    assert (folder / "output" / "report.html").is_file()

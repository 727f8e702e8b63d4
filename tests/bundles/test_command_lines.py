"""Wrong command lines, word by word as they are typed: one paragraph each, and no traceback."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import fire
import numpy as np
import pytest
from monai.bundle import run
from PIL import Image

from pipelines.common.options import find_mistake
from pipelines.training.sequence import StagedTraining

ROOT = Path(__file__).parents[2]
TRAIN = "run training --config_file bundles/aeflow/train.json"
EVALUATE = "run evaluating --config_file bundles/aeflow/evaluate.json"
INFER = "run inferring --config_file bundles/aeflow/inference.json"

WRONG: list[tuple[str, str]] = [
    # What MONAI takes itself.
    (f"{TRAIN} stray", "'stray'"),
    (f"{TRAIN} stray words", "'stray'"),
    (f"{TRAIN} initialize stray", "final_id"),
    (f"{TRAIN} --init_id begin", "init_id"),
    (f"{TRAIN} --final_id end", "final_id"),
    (f"{TRAIN.replace('training', 'trainig')}", "Did you mean 'training'?"),
    (f"{TRAIN.replace('training', 'evaluating')}", "training"),
    (f"{TRAIN.replace('training', 'max_epochs')}", "run_id"),
    ("run --run_id --config_file bundles/aeflow/train.json", "run_id"),
    (f"{INFER.replace('inferring', 'infering')} --input x.png", "'inferring'"),
    (f"{TRAIN} --meta_file nowhere.json", "meta_file"),
    (f"{TRAIN} --tracking mlflow", "--tracking_uri"),
    # Names and expressions.
    (f"{TRAIN} --max_epoch 5", "'max_epochs'"),
    (f"{TRAIN} --max-epoch 5", "'max_epochs'"),
    (f"{TRAIN} -x 5", "--x"),
    (f"{TRAIN} --pretrain#epochs 5", "no such option"),
    (f"{TRAIN} --max_epochs '$1/0'", "max_epochs"),
    (f"{TRAIN} --max_epochs '$nothing'", "max_epochs"),
    (f"{TRAIN} --max_epochs '@nowhere'", "max_epochs"),
    (f"{TRAIN} --max_epochs '$\"many\"'", "max_epochs"),
    # Values.
    (f"{TRAIN} --max_epochs", "max_epochs"),
    (f"{TRAIN} --max_epochs 1.5", "max_epochs"),
    (f"{TRAIN} --max_epochs '[1,2]'", "max_epochs"),
    (f"{TRAIN} --dataset_dir '[a,b]'", "dataset_dir"),
    (f"{TRAIN} --dataset_dir 12", "dataset_dir"),
    (f"{TRAIN} --dataset_dir {'x' * 300}", "dataset_dir"),
    (f"{TRAIN} --output_dir True", "output_dir"),
    (f"{TRAIN} --output_dir {'x' * 300}", "output_dir"),
    (f"{TRAIN} --fractions '[0.5,0.5]'", "fractions"),
    (f"{TRAIN} --fractions '[0.6,0.2'", "fractions"),
    (f"{TRAIN} --flow_strides '[]'", "flow_strides"),
    (f"{TRAIN} --flow_strides 16", "flow_strides"),
    (f"{TRAIN} --flow_strides '[5]'", "flow_strides"),
    (f"{TRAIN} --image_size '[96,96,96]'", "image_size"),
    (f"{TRAIN} --weights flow", "weights"),
    (f"{TRAIN} --weights \"{{'flo':1}}\"", "weights"),
    (f"{TRAIN} --fillings '[water]'", "fillings"),
    (f"{TRAIN} --amp yes", "amp"),
    (f"{TRAIN} --channels 0", "channels"),
    # Devices.
    (f"{TRAIN} --device 0", "device"),
    (f"{TRAIN} --device cuda:", "device"),
    (f"{TRAIN} --device cuda:-1", "device"),
    (f"{TRAIN} --device mps", "device"),
    (f"{TRAIN} --device meta", "device"),
    (f"{TRAIN} --device CUDA", "device"),
    (f"{TRAIN} --device cpu:99", "device"),
    # Layouts, splits and files.
    (f"{TRAIN} --layout brats --dataset_dir tests", "dataset_dir"),
    (f"{TRAIN} --layout list --dataset_dir pyproject.toml", "dataset_dir"),
    (f"{TRAIN} --layout '[brats]'", "layout"),
    (f"{TRAIN} --dataset_dir pyproject.toml", "dataset_dir"),
    (f"{TRAIN} --dataset_dir {ROOT / 'docs'}", "dataset_dir"),
    (f"{TRAIN} --split docs", "split"),
    (f"{TRAIN} --split pyproject.toml", "split"),
    (f"{TRAIN} --region nowhere", "region"),
    (f"{EVALUATE} --ckpt_dir docs", "ckpt_dir"),
    (f"{EVALUATE} --ckpt_dir pyproject.toml", "ckpt_dir"),
    (f"{EVALUATE} --ckpt_dir {'x' * 300}", "ckpt_dir"),
    (f"{INFER} --ckpt_dir /dev/null --input docs", "ckpt_dir"),
]


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def began(self: StagedTraining) -> None:
        raise AssertionError("a training began")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(StagedTraining, "run", began)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough normal pictures to train on."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, count in (("train/normal", 100), ("test/anomalous", 2)):
        (folder / part).mkdir(parents=True)
        for number in range(count):
            picture = Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8))
            picture.save(folder / part / f"{part[:2]}{number}.png")
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("line", "said"), WRONG, ids=[line[:90] for line, _ in WRONG])
def test_a_wrong_line_ends_in_a_paragraph(
    line: str, said: str, pictures: Path, tmp_path: Path
) -> None:
    words = shlex.split(line)
    if "--dataset_dir" not in words and "--input" not in words:
        words += ["--dataset_dir", str(pictures)]
    for option in ("output_dir", "ckpt_dir"):
        if f"--{option}" not in words:
            words += [f"--{option}", str(tmp_path / option)]
    if "inferring" not in line and "infering" not in line and "--tracking_uri" not in line:
        words += ["--tracking_uri", "none"]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps what the program raises
        fire.Fire({"run": run}, command=words)
    told = find_mistake(caught.value)
    assert told is not None, f"a traceback: {caught.value!r}"
    assert said in told and len(told) < 3000
    assert not list(tmp_path.rglob("model.pt"))


def typed(line: str, folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "monai.bundle", *shlex.split(line)]
    done = subprocess.run(
        [*command, "--output_dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{TRAIN} stray", "'stray'"),
        (TRAIN.replace("training", "trainig"), "Did you mean 'training'?"),
        (f"{TRAIN} --device cuda:-1", "device"),
        (f"{TRAIN} --max_epochs '$1/0'", "max_epochs"),
    ],
)
def test_a_wrong_line_typed(line: str, said: str, tmp_path: Path) -> None:
    code, told = typed(line, tmp_path)
    assert code == 1 and "Traceback" not in told, told[-2000:]
    paragraph = told[told.index("Error: ") :].strip()
    assert "\n\n" not in paragraph and said in " ".join(paragraph.split())


def test_an_unknown_verb_is_told_by_monai(tmp_path: Path) -> None:
    code, told = typed("runn training --config_file bundles/aeflow/train.json", tmp_path)
    assert code == 2 and "Traceback" not in told and "Cannot find key: runn" in told


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run training --config_file bundles/aeflow/trian.json", "Cannot find the config file"),
        (f"{TRAIN} --logging_file nowhere.conf", "Cannot find the logging config file"),
        ("run training", "config_file"),
    ],
)
def test_what_fails_before_the_bundle_is_read_is_monais(
    line: str, said: str, tmp_path: Path
) -> None:
    """Nothing of ours is imported by then; the last line of the traceback says what is wrong."""
    code, told = typed(line, tmp_path)
    assert code == 1 and said in told.splitlines()[-1]

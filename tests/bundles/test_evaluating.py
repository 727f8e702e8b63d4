"""Evaluating a trained model on folders as they come."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow, run

from pipelines.scoring import cases as scoring

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "aeflow"
MistakeOf = Callable[..., str]
FIGURES = (
    "image_auroc",
    "image_ap",
    "pixel_ap",
    "dice_at_threshold",
    "dice_oracle",
    "sensitivity",
    "specificity",
    "threshold",
    "n_normal",
    "n_anomalous",
)
AFFINES = {
    "good": np.diag([1.0, 1.0, 2.0, 1.0]),
    "lps": np.diag([-1.0, -1.0, 2.0, 1.0]),
    "oblique": np.array(
        [[0.98, -0.17, 0, -9], [0.17, 0.98, 0, 4], [0, 0, 2, 7], [0, 0, 0, 1]], dtype=float
    ),
}


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def write_case(folder: Path, name: str, affine: np.ndarray, seed: int = 0) -> Path:
    """A small volume with a bright lesion and its mask, in BraTS layout."""
    rng = np.random.default_rng(seed)
    values = rng.normal(100, 20, (24, 22, 9)).clip(1).astype(np.float32)
    values[:3] = values[-3:] = values[:, :3] = values[:, -3:] = 0
    mask = np.zeros(values.shape, np.uint8)
    mask[8:14, 8:14, 4:6] = 1
    values[mask > 0] += 100
    (folder / name).mkdir(parents=True, exist_ok=True)
    for what, array in (("flair", values), ("seg", mask)):
        image = nib.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm")
        image.set_qform(affine, 1)
        image.set_sform(affine, 1)
        nib.save(image, folder / name / f"{name}_{what}.nii.gz")
    return folder / name / f"{name}_flair.nii.gz"


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Three good volumes and four that cannot be used."""
    folder = tmp_path / "data"
    for name, affine in AFFINES.items():
        write_case(folder, name, affine)
    truncated = write_case(folder, "bad_cut", np.eye(4))
    truncated.write_bytes(truncated.read_bytes()[:2000])
    for name, value in (("bad_zero", 0.0), ("bad_nan", np.nan)):
        path = write_case(folder, name, np.eye(4))
        image: Any = nib.load(path)
        values = image.get_fdata().astype(np.float32)
        values[(slice(None) if value == 0 else slice(10, 12))] = value
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    write_case(folder, "bad_shape", np.eye(4))
    other = nib.Nifti1Image(np.ones((24, 22, 8), np.uint8), np.eye(4))
    nib.save(other, folder / "bad_shape" / "bad_shape_seg.nii.gz")
    return folder


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    names: list[str] = []
    genuine = scoring.score_cases

    def score(scorer: Any, samples: Any, *args: Any) -> Any:
        names.extend(sample.case.name for sample in samples)
        return genuine(scorer, samples, *args)

    monkeypatch.setattr(scoring, "score_cases", score)
    yield names


def options(trained: Path, data: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {
        "dataset_dir": str(data),
        "ckpt_dir": str(trained / "models"),
        "output_dir": str(output),
        "tracking_uri": "none",
        **more,
    }


def evaluate(**given: Any) -> None:
    run("evaluating", config_file=str(BUNDLE / "evaluate.json"), **given)


def test_the_model_s_own_test_cases_give_the_training_s_figures(
    trained: Path, phantoms: Path, tmp_path: Path, seen: list[str]
) -> None:
    given = options(trained, phantoms, tmp_path, batch_size=16)  # as the training's
    evaluate(**given)
    again, before = load(tmp_path / "metrics.json"), load(trained / "output" / "metrics.json")
    for name in FIGURES:
        assert again[name]["value"] == pytest.approx(before[name]["value"], abs=1e-5), name
    assert sorted(seen) == sorted(load(trained / "models" / "split.json")["test"])
    assert any("left out: the model has seen them" in note for note in again["notes"])
    first, second = (table(folder / "scores.csv") for folder in (trained / "output", tmp_path))
    for one, other in zip(first, second, strict=True):
        assert one["case"] == other["case"] and one["flagged"] == other["flagged"]
        assert float(one["score"]) == pytest.approx(float(other["score"]), abs=1e-6)


def test_a_folder_as_it_comes(trained: Path, messy: Path, tmp_path: Path, seen: list[str]) -> None:
    out = tmp_path / "out"
    given = options(trained, messy, out)
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "evaluating", "--config_file",
         "bundles/aeflow/evaluate.json", *(f"--{k}={v}" for k, v in given.items())],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    paragraph = done.stderr[done.stderr.index("Error: ") :].strip()
    assert "\n\n" not in paragraph
    mistake = " ".join(paragraph.split())
    assert "4 of 7 cases could not be used" in mistake and str(out / "failures.csv") in mistake
    failed = {row["case"]: row["reason"] for row in table(out / "failures.csv")}
    said = {
        "bad_cut": "cut off",
        "bad_nan": "NaN",
        "bad_shape": "(24, 22, 8)",
        "bad_zero": "the value 0 everywhere",
    }
    assert set(failed) == set(said)
    for name, word in said.items():
        assert word in failed[name] and f"{name}_" in failed[name]

    rows = table(out / "scores.csv")
    assert {row["case"] for row in rows} == set(AFFINES) and "patient" not in rows[0]
    assert [row["level"] for row in rows[:10]] == ["slice"] * 9 + ["volume"]
    assert [row["label"] for row in rows[:10]] == [*"000011000", "1"]
    metrics = load(out / "metrics.json")
    assert set(metrics["patients"]) == set(AFFINES) and metrics["n_failed"]["value"] == 4
    assert metrics["volumes"]["n_anomalous"]["value"] == 3
    assert (out / "report.html").exists()
    for name, affine in AFFINES.items():
        for what in ("anomaly", "mask"):
            written: Any = nib.load(out / "maps" / f"{name}_{what}.nii.gz")
            np.testing.assert_allclose(written.affine, affine, atol=1e-5)
            assert written.shape == (24, 22, 9)
            assert written.header.get_xyzt_units() == ("mm", "unknown")
            fields = ("qform_code", "sform_code")
            assert [int(written.header[field]) for field in fields] == [1, 1]

    for name in said:
        write_case(messy, name, np.eye(4))
    evaluate(**given)
    assert seen == list(said)
    assert not (out / "failures.csv").exists()
    assert len(load(out / "metrics.json")["patients"]) == 7


@pytest.mark.parametrize(
    ("asked", "names"),
    [({"cases": "good,lps"}, ["good", "lps"]), ({"limit": 2}, ["bad_cut", "bad_nan"])],
)
def test_some_cases_can_be_asked_for(
    trained: Path, messy: Path, tmp_path: Path, asked: dict[str, Any], names: list[str]
) -> None:
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "evaluate.json"),
        workflow_type="infer",
        **options(trained, messy, tmp_path / "out"),
        **asked,
    )
    workflow.initialize()
    dataset: Any = workflow.parser.get_parsed_content("dataset")
    assert [case.name for case in dataset.data] == names


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"cases": "oblike"}, "cases: 'oblike' is not among the 7 cases"),
        ({"cases": "oblike"}, "Did you mean 'oblique'?"),
        ({"limit": 0}, "limit: expected a"),
    ],
)
def test_cases_that_are_not_there_are_told(
    trained: Path,
    messy: Path,
    tmp_path: Path,
    mistake_of: MistakeOf,
    asked: dict[str, Any],
    said: str,
) -> None:
    given = options(trained, messy, tmp_path / "out")
    assert said in mistake_of("evaluating", "evaluate.json", **given, **asked)


def test_patients_of_the_training_are_never_evaluated(
    trained: Path, phantoms: Path, tmp_path: Path, mistake_of: MistakeOf
) -> None:
    own = load(trained / "models" / "split.json")["calibration"][0]
    given = options(trained, phantoms, tmp_path)
    mistake = mistake_of("evaluating", "evaluate.json", **given, cases=[own])
    assert f"'{own}' is not among" in mistake

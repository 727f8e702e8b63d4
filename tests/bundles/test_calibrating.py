"""A trained model meets the normal images of another site."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import run

from pipelines.data.phantom.writer import ensure_phantom_dataset
from pipelines.scoring.model_file import model_version, read_model

BUNDLE = Path(__file__).parents[2] / "bundles" / "aeflow"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms, of which the first are those of the training."""
    folder = tmp_path_factory.mktemp("site")
    return ensure_phantom_dataset(folder, patients=10, size=(64, 64, 24))


def calibrate(trained: Path, site: Path, output: Path, **options: Any) -> dict[str, Any]:
    run(
        "calibrating",
        config_file=str(BUNDLE / "calibrate.json"),
        dataset_dir=str(site),
        ckpt_dir=str(trained / "models"),
        output_dir=str(output),
        **{"layout": "brats", **options},
    )
    told: dict[str, Any] = json.loads((output / "calibration.json").read_text())
    return told


def test_a_model_is_calibrated_anew_beside_the_old_one(
    trained: Path, site: Path, tmp_path: Path
) -> None:
    before = (trained / "models" / "model.pt").read_bytes()
    told = calibrate(trained, site, tmp_path / "new")
    assert (trained / "models" / "model.pt").read_bytes() == before
    assert (tmp_path / "new" / "calibration.png").stat().st_size > 1000
    old, new = read_model(trained / "models"), read_model(tmp_path / "new")
    assert told["patients"] == len(new["case_scores"]) == 5  # and none that the model has seen
    assert told["calibrated"] == new["calibrated"] == model_version(old)
    assert told["after"]["promised_fpr"] == pytest.approx(0.2)
    assert 0 <= told["before"]["realised_fpr"]["value"] <= 1
    assert told["after"]["threshold"] == pytest.approx(float(new["model"]["calibration.threshold"]))
    assert told["parts"]["before"] != told["parts"]["after"]
    assert new["case_scores"] == sorted(new["case_scores"])
    kept = [name for name in old["model"] if not name.startswith("calibration.")]
    assert all(old["model"][name].equal(new["model"][name]) for name in kept)
    assert set(old["seen"]) < set(new["seen"])
    assert "Calibrated anew" in new["notes"][len(old["notes"])]
    assert "Phantom" not in (tmp_path / "new" / "calibration.json").read_text()


def test_the_calibrated_model_scores(trained: Path, site: Path, tmp_path: Path) -> None:
    calibrate(trained, site, tmp_path / "new", target_fpr=0.5)
    scan = next(site.rglob("*flair.nii.gz"))
    run(
        "inferring",
        config_file=str(BUNDLE / "inference.json"),
        input=str(scan),
        ckpt_dir=str(tmp_path / "new"),
        output_dir=str(tmp_path / "scored"),
    )
    assert "p_value" in (tmp_path / "scored" / "scores.csv").read_text()


def test_one_patient_cannot_tell_the_realised_rate(
    trained: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    one = ensure_phantom_dataset(tmp_path_factory.mktemp("one"), patients=8, size=(64, 64, 24))
    scan = sorted(one.rglob("*_flair.nii.gz"))[-1]
    folder = tmp_path / "normals"
    folder.mkdir()
    (folder / scan.name).write_bytes(scan.read_bytes())
    told = calibrate(trained, folder, tmp_path / "new", layout="normals")
    assert told["patients"] == 1 and told["after"]["realised_fpr"]["value"] is None
    assert told["before"]["realised_fpr"]["value"] is not None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"output_dir": "{models}"}, "which is kept. Choose another folder with --output_dir"),
        ({"dataset_dir": "{models}", "layout": "normals"}, "found no case at all"),
        ({"dataset_dir": None}, "dataset_dir: name the folder of normal images"),
    ],
)
def test_mistakes_are_told(
    options: dict[str, Any],
    told: str,
    trained: Path,
    site: Path,
    tmp_path: Path,
    mistake_of: Callable[..., str],
) -> None:
    given = {"dataset_dir": str(site), "output_dir": str(tmp_path / "new"), "layout": "brats"}
    given |= {k: v and v.format(models=trained / "models") for k, v in options.items()}
    models = str(trained / "models")
    assert told in mistake_of("calibrating", "calibrate.json", ckpt_dir=models, **given)

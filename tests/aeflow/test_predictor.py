"""A trained model in Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from aeflow import Prediction, Predictor
from transforms.errors import InputError

WriteVolume = Callable[..., Path]
WriteModel = Callable[..., dict[str, Any]]


@pytest.fixture
def volumes(write_model: WriteModel, tmp_path: Path) -> Predictor:
    write_model()
    return Predictor(tmp_path / "models", "cpu")


@pytest.fixture
def pictures(write_model: WriteModel, tmp_path: Path) -> Predictor:
    write_model("pictures", volumetric=False, modalities=["image"])
    return Predictor(tmp_path / "pictures" / "model.pt", "cpu")


def one(found: Any) -> Prediction:
    assert isinstance(found, Prediction)
    return found


def test_a_file_gives_a_score_and_a_map_on_its_grid(
    volumes: Predictor, write_volume: WriteVolume
) -> None:
    affine = np.diag([-2.0, 1.5, 3.0, 1.0])
    path = write_volume("scan", shape=(24, 30, 6), affine=affine)
    found = one(volumes(str(path)))
    assert found.name == "scan" and np.isfinite(found.score)
    assert tuple(found.map.shape) == (24, 30, 6)
    np.testing.assert_allclose(found.map.affine, affine)
    assert set(found.parts) == set(volumes._predict.scorer.parts)
    assert found.score_std is None and found.in_scope is True and found.out_of_scope == ""
    assert found.flagged is (found.score > found.threshold)
    assert 0 <= found.percentile <= 100 and 0 < found.p_value <= 1
    assert found.verdict in repr(found) and f"score {found.score:.2f}" in found.verdict


def test_an_array_scores_as_its_file_does(volumes: Predictor, write_volume: WriteVolume) -> None:
    path = write_volume("scan", affine=np.diag([1.0, 2.0, 3.0, 1.0]))
    values = np.asarray(nib.load(path).dataobj)
    found = one(volumes(values, spacing=(1, 2, 3)))
    assert found.score == pytest.approx(one(volumes(path)).score, abs=1e-5)
    np.testing.assert_allclose(found.map.affine, np.diag([1.0, 2.0, 3.0, 1.0]))


def test_lists_and_folders_give_lists(volumes: Predictor, write_volume: WriteVolume) -> None:
    first, second = write_volume("in/a"), write_volume("in/b", seed=1)
    listed, folder = volumes([first, second]), volumes(first.parent)
    assert isinstance(listed, list) and isinstance(folder, list)
    assert [p.score for p in listed] == [p.score for p in folder] and len(folder) == 2


def test_a_picture_may_be_an_array(pictures: Predictor, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 256, (24, 20), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "x.png")
    found = one(pictures(values))
    assert found.score == pytest.approx(one(pictures(tmp_path / "x.png")).score)
    assert tuple(found.map.shape) == (24, 20)


def test_what_cannot_be_scored_is_told(volumes: Predictor, pictures: Predictor) -> None:
    with pytest.raises(InputError, match="source: expected a volume .* spacing None"):
        volumes(np.zeros((4, 4, 4)))
    with pytest.raises(InputError, match="source: expected a picture .* found float64"):
        pictures(np.zeros((4, 4)))
    with pytest.raises(InputError, match="nowhere.nii does not exist"):
        volumes("nowhere.nii")
    with pytest.raises(InputError, match="there is no model file"):
        Predictor("nowhere")


def test_it_is_shown_and_saved(
    volumes: Predictor, write_volume: WriteVolume, tmp_path: Path
) -> None:
    found = one(volumes(write_volume("scan")))
    figure = found.show()
    assert len(figure.axes) == 3
    plt.close(figure)
    page = found._repr_html_()
    assert "data:image/png;base64," in page and f"score {found.score:.2f}" in page
    assert "not for diagnosis" in page and 'alt="scan' in page
    written = found.save(tmp_path / "out")
    names = ["scan_anomaly.nii.gz", "scan_mask.nii.gz", "scan.png", "scan_scores.csv"]
    assert [path.name for path in written] == names and all(path.is_file() for path in written)
    assert (tmp_path / "out" / "scan_scores.csv").read_text().startswith("case,level,slice")

"""The scoring path as a server of bundles runs it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, decollate_batch
from monai.inferers import Inferer
from monai.transforms import Compose
from PIL import Image

from pipelines.data.cases import Case
from pipelines.export.serving import LabelBandsd, LoadSlicesd
from pipelines.scoring.bands import Bands
from pipelines.scoring.cases import ScoredCase, ScoreSlices
from pipelines.scoring.predictor import Predictor
from transforms.errors import InputError

CONFIG = Path(__file__).parents[3] / "bundles" / "aeflow" / "inference.json"
AFFINE = np.array([[0, -2.0, 0, 9], [-1, 0, 0, 7], [0, 0, 1.5, -5], [0, 0, 0, 1]])
WriteVolume = Callable[..., Path]
WriteModel = Callable[..., dict[str, Any]]
Serve = Callable[..., dict[str, Any]]


def run_like_a_server(
    image: Any, pre: Compose, inferer: Inferer, network: Any, post: Compose
) -> dict[str, Any]:
    """What MONAI Label's bundle task does with the parts of an inference.json."""
    data: dict[str, Any] = {"image": image, "device": "cpu"}
    for transform in pre.transforms:
        data = transform(data)
    with torch.no_grad():
        outputs = inferer(data["image"][None], network)
    data["pred"] = decollate_batch(outputs)[0]
    for transform in post.transforms:
        data = transform(data)
    return data


@pytest.fixture
def write_lively(write_model: WriteModel, tmp_path: Path) -> WriteModel:
    """Writes a model whose maps reach both bands."""

    def write(**facts: Any) -> dict[str, Any]:
        content = write_model(**facts)
        path = tmp_path / "models" / "model.pt"
        full = torch.load(path, weights_only=True)
        state = full["model"]
        state["calibration.maps.levels"].mul_(0.1).sub_(1.6)
        state["calibration.pixel_threshold"].fill_(0.5)
        state["calibration.pixel_fpr"].fill_(0.01)
        state["calibration.pixel_levels"].copy_(torch.linspace(-5.0, 5.0, 401))  # 2.5 at 99.9 %
        torch.save(full, path)
        return content

    return write


@pytest.fixture
def serve(write_lively: WriteModel, tmp_path: Path) -> Serve:
    """Serves an image with the parts that inference.json names."""

    def run(image: Any, **facts: Any) -> dict[str, Any]:
        write_lively(**facts)
        parser = ConfigParser()
        parser.read_config(str(CONFIG))
        parser.update({"bundle_root": str(tmp_path), "device": "cpu"})
        names = ("pre_transforms", "inferer", "network_def", "post_transforms")
        return run_like_a_server(image, *(parser.get_parsed_content(name) for name in names))

    return run


def predicted(models: Path, image: Path) -> tuple[ScoredCase, Bands]:
    predictor = Predictor(models)
    bands = Bands.of(predictor.scorer)
    return predictor(Case("image", "image", (image,))), bands


def test_a_volume_s_label_map_is_that_of_the_predictor(
    serve: Serve, write_volume: WriteVolume, tmp_path: Path
) -> None:
    image = write_volume("scan", affine=AFFINE)
    served = serve(str(image))
    scored, bands = predicted(tmp_path / "models", image)
    label = served["pred"]
    assert isinstance(label, MetaTensor) and label.dtype == torch.uint8
    source: Any = nib.load(image)
    np.testing.assert_allclose(label.affine, source.affine)
    expected = bands.label_map(scored.grid_map.as_tensor().numpy())
    assert label.shape == (1, 24, 24, 6) and expected.max() == 2
    np.testing.assert_array_equal(label.array[0], expected)
    for name, value in scored.case_score.as_dict().items():
        assert served["result"][name] == pytest.approx(value, abs=1e-5), name
    json.dumps(served["result"], allow_nan=False)
    # A writer that looks for a grid at the image would find that of the slices.
    assert not isinstance(served["image"], MetaTensor)


@pytest.mark.parametrize("patch_size", [None, (16, 32, 32)])
def test_what_the_detector_needs_reaches_it_through_a_server(
    patch_size: tuple[int, ...] | None, serve: Serve, write_volume: WriteVolume, tmp_path: Path
) -> None:
    image = write_volume("scan", affine=AFFINE)
    served = serve(str(image), normative=True, patch_size=patch_size)
    scored, bands = predicted(tmp_path / "models", image)
    assert {"bright", "dark"} <= set(scored.parts)
    # A place that got lost would leave the normative parts at their value without any.
    assert np.ptp(scored.parts["bright"]) > 0.1
    for name, value in scored.case_score.as_dict().items():
        assert served["result"][name] == pytest.approx(value, abs=1e-5), name
    assert {"bright_score", "dark_score"} <= set(served["result"])
    expected = bands.label_map(scored.grid_map.as_tensor().numpy())
    np.testing.assert_array_equal(served["pred"].array[0], expected)
    assert expected.max() >= 1


def test_a_picture_s_label_map_is_as_monai_writes_pictures(serve: Serve, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(1, 256, (40, 30), dtype=np.uint8)
    image = tmp_path / "xray.png"
    Image.fromarray(levels).save(image)
    served = serve(image, volumetric=False, modalities=["image"])
    scored, bands = predicted(tmp_path / "models", image)
    expected = bands.label_map(scored.grid_map.as_tensor().numpy())
    assert served["pred"].shape == (30, 40) and expected.max() >= 1
    np.testing.assert_array_equal(served["pred"].array.T, expected)
    assert served["result"]["flagged"] is scored.case_score.flagged
    assert "millilitres" not in served["result"]["bands"]["suspicious"]


def test_files_of_several_modalities_are_one_image(
    serve: Serve, write_volume: WriteVolume, tmp_path: Path
) -> None:
    images = [write_volume("case_flair"), write_volume("case_t2", seed=1)]
    served = serve([str(one) for one in images], channels=2, modalities=["flair", "t2"])
    found = Predictor(tmp_path / "models")(Case("case", "case", tuple(images)))
    assert served["result"]["score"] == pytest.approx(found.case_score.score, abs=1e-5)


def test_one_4d_file_holds_several_modalities(
    serve: Serve, write_volume: WriteVolume, tmp_path: Path
) -> None:
    images = [write_volume("case_flair"), write_volume("case_t2", seed=1)]
    parts: list[Any] = [nib.load(one) for one in images]
    both = nib.Nifti1Image(np.stack([one.get_fdata() for one in parts], -1), parts[0].affine)
    nib.save(both, tmp_path / "both.nii.gz")
    served = serve(str(tmp_path / "both.nii.gz"), channels=2, modalities=["flair", "t2"])
    found = Predictor(tmp_path / "models")(Case("case", "case", tuple(images)))
    assert served["result"]["score"] == pytest.approx(found.case_score.score, abs=1e-5)
    assert served["pred"].shape == (1, *parts[0].shape)


def test_scores_do_not_depend_on_the_batch_size(
    write_model: WriteModel, write_volume: WriteVolume, tmp_path: Path
) -> None:
    write_model()
    predictor = Predictor(tmp_path / "models")
    loaded = LoadSlicesd("image", predictor.loader, predictor.scorer)(
        {"image": write_volume("scan")}
    )
    with torch.no_grad():
        one, all_ = (ScoreSlices(n)(loaded["image"][None], predictor.scorer) for n in (1, 32))
    assert one["score"].shape == (1, len(loaded["image"]))
    for name, value in one.items():
        torch.testing.assert_close(value, all_[name], atol=1e-5, rtol=1e-4)


def test_the_second_band_can_be_moved(
    write_lively: WriteModel, write_volume: WriteVolume, tmp_path: Path
) -> None:
    write_lively()
    predictor = Predictor(tmp_path / "models")
    pre = Compose([LoadSlicesd("image", predictor.loader, predictor.scorer)])
    found = []
    levels = predictor.scorer.calibration.pixel_levels
    levels[:300], levels[300:] = 0.5, 1e6
    for percentile in (99.1, 99.95):
        post = LabelBandsd("pred", predictor.scorer, predictor.reference, percentile)
        image = write_volume("scan")
        parts = (ScoreSlices(), predictor.scorer, Compose([post]))
        found.append(set(np.unique(run_like_a_server(image, pre, *parts)["pred"].array)))
    assert found == [{0, 2}, {0, 1}]


def test_an_image_without_a_body_is_refused(serve: Serve, write_volume: WriteVolume) -> None:
    values = np.zeros((24, 24, 6), np.float32)
    values[8:12, 8:12, 2:4] = np.random.default_rng(0).normal(100, 20, (4, 4, 2))
    with pytest.raises(InputError, match="no slice shows enough of the body"):
        serve(write_volume("empty", values))


def test_slices_of_another_model_are_refused(
    write_model: WriteModel, write_volume: WriteVolume, tmp_path: Path
) -> None:
    write_model()
    predictor = Predictor(tmp_path / "models")
    replaced = Predictor(tmp_path / "models").scorer
    replaced.calibration.quantiles.add_(0.1)
    post = LabelBandsd("pred", predictor.scorer, predictor.reference)
    pre = Compose([LoadSlicesd("image", predictor.loader, predictor.scorer)])
    with pytest.raises(InputError, match="was replaced while it was served"):
        run_like_a_server(write_volume("scan"), pre, ScoreSlices(), replaced, Compose([post]))

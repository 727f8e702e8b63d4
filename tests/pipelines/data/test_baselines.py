"""Trivial scores, on made and on real images."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipelines.data.baselines import (
    BASELINES,
    SliceBaselines,
    block_score,
    intensity_map,
    picture_scores,
    sharpness,
    slice_baselines,
    volume_baselines,
)
from pipelines.metrics.image import image_metrics
from pipelines.metrics.matching import LEVEL_TOLERANCE, matched_auroc
from pipelines.metrics.pixel import PixelHistogram, default_edges, pixel_metrics
from transforms import intensity
from transforms.errors import InputError

DATA = os.environ.get("AEFLOW_DATA_DIR", "")
XRAY_AUROC = 0.9325
T2_VALUES = (0.7900, 0.9528, 0.4769, 0.5553)  # slice AUROC, matched, pixel AP, oracle Dice
needs_data = pytest.mark.skipif(not DATA, reason="AEFLOW_DATA_DIR is not set")


def volume() -> np.ndarray:
    rng = np.random.default_rng(0)
    made = rng.uniform(100, 200, (24, 24, 12)).astype(np.float32)
    made[:4] = 0
    made[12:20, 8:16, 5:8] = 400
    made[..., 11] = 0
    return made


def baselines(volume: np.ndarray, body: np.ndarray | None = None) -> SliceBaselines:
    """Those of all slices of a volume (C, X, Y, Z), along Z."""
    inside = (volume > 0).any(axis=0) if body is None else body
    stack = np.moveaxis(volume, 3, 1).astype(np.float32)
    return volume_baselines(stack, np.moveaxis(inside, 2, 0), np.arange(stack.shape[1]))


def robust_z(image: np.ndarray, body: np.ndarray | slice = np.s_[:]) -> np.ndarray:
    lower, median, upper = np.percentile(image[body], [25, 50, 75])
    return (image - median) / (upper - lower)


def test_sharpness_looks_at_rows_only() -> None:
    ramp = np.arange(5.0)[:, None] * 3 + np.arange(4.0) * 100
    assert sharpness(ramp) == pytest.approx(-3.0)


def test_sharpness_of_unsigned_bytes_does_not_wrap() -> None:
    assert sharpness(np.array([[250], [5]], np.uint8)) == -245


def test_blurred_images_score_higher() -> None:
    image = np.random.default_rng(0).uniform(size=(32, 32))
    assert sharpness(gaussian_filter(image, 1)) > sharpness(image)


def test_block_score_by_hand() -> None:
    image = np.zeros((32, 40))
    for index in range(12):
        row, column = divmod(index, 5)
        image[row * 8, column * 8] = 64 * index
    assert block_score(image) == pytest.approx(np.mean(np.arange(2, 12)))


def test_block_score_leaves_out_what_fills_no_block() -> None:
    image = np.full((19, 24), 1000.0)
    image[1:17] = 1
    assert block_score(image) == 1


def test_intensity_map_smooths_along_every_axis() -> None:
    impulse = np.zeros((21, 21, 21))
    impulse[10, 10, 10] = 1
    smooth = intensity_map(impulse)
    axis = smooth[:, 10, 10]
    spread = np.sqrt((axis * (np.arange(21) - 10) ** 2).sum() / axis.sum())
    assert spread == pytest.approx(2.0, abs=0.02)
    assert smooth[10, 10] == pytest.approx(axis)


def test_picture_scores() -> None:
    image = np.random.default_rng(0).uniform(50, 255, (16, 24))
    image[:, :6] = 5
    found = picture_scores(image[None].astype(np.float32))
    assert set(found) == set(BASELINES)
    assert found["area"] == pytest.approx(0.75)
    assert found["mean"] == pytest.approx(image.mean())
    assert found["spread"] == pytest.approx(image.std())
    assert found["sharpness"] == pytest.approx(sharpness(image))
    assert found["intensity"] == pytest.approx(block_score(robust_z(image)))


def test_picture_scores_are_means_over_channels() -> None:
    channels = np.random.default_rng(0).uniform(1, 2, (2, 16, 16)).astype(np.float32)
    found = picture_scores(channels)
    single = [picture_scores(channel[None]) for channel in channels]
    for name in BASELINES:
        assert found[name] == pytest.approx(np.mean([scores[name] for scores in single]))


def test_volume_scores_find_the_bright_slices() -> None:
    made = volume()
    found = baselines(made[None])
    around = found.maps["intensity"]
    assert set(found.scores) == set(BASELINES)
    assert all(scores.shape == (12,) for scores in found.scores.values())
    assert around.shape == (12, 24, 24)
    assert set(np.argsort(found.scores["intensity"])[-3:]) == {5, 6, 7}
    z = robust_z(made, made > 0)
    assert around == pytest.approx(np.moveaxis(intensity_map(z), 2, 0), abs=1e-5)
    assert found.scores["mean"][3] == pytest.approx(z[..., 3][made[..., 3] > 0].mean(), abs=1e-5)
    assert found.scores["area"][3] == pytest.approx(20 / 24)
    assert found.scores["area"][11] == 0
    assert all(np.isfinite(scores).all() for scores in found.scores.values())


def test_volume_scores_do_not_depend_on_the_unit_and_average_channels() -> None:
    made = volume()
    single, pair = baselines(made[None]), baselines(np.stack([made, 90 * made]))
    assert pair.maps["intensity"] == pytest.approx(single.maps["intensity"], abs=1e-4)
    for name in BASELINES:
        assert pair.scores[name] == pytest.approx(single.scores[name], abs=1e-4)


@pytest.fixture
def native() -> torch.Tensor:
    """Five slices of two channels, `(5, 2, 24, 20)`, with a zero background."""
    values = torch.rand(5, 2, 24, 20, generator=torch.Generator().manual_seed(0)) + 1
    values[..., :3] = 0
    return values


def test_a_volumes_slices_keep_their_place(native: torch.Tensor) -> None:
    body = (native > 0).any(dim=1)
    found = slice_baselines(native, body, torch.tensor([3, 0]))
    whole = baselines(native.permute(1, 2, 3, 0).numpy())
    assert set(found.scores) == set(BASELINES)
    for name, values in found.scores.items():
        np.testing.assert_allclose(values, whole.scores[name][[3, 0]], rtol=1e-6, err_msg=name)
    assert found.maps["intensity"].shape == (2, 24, 20)
    np.testing.assert_allclose(found.maps["intensity"], whole.maps["intensity"][[3, 0]], rtol=1e-5)


def test_a_picture_has_scores_but_no_map(native: torch.Tensor) -> None:
    found = slice_baselines(native[:1], None, torch.tensor([0]))
    expected = picture_scores(native[0].numpy())
    assert found.maps == {}
    assert {name: values.tolist() for name, values in found.scores.items()} == {
        name: [value] for name, value in expected.items()
    }


def test_the_body_decides_whatever_the_values() -> None:
    made = volume()
    straight = baselines(made[None])
    found = baselines(made[None] - 500, made > 0)  # below 0 everywhere, like fat in HU
    assert found.maps["intensity"] == pytest.approx(straight.maps["intensity"], abs=1e-4)
    for name in BASELINES:
        assert found.scores[name] == pytest.approx(straight.scores[name], abs=1e-4), name


def test_noise_around_the_body_does_not_count() -> None:
    made = volume()
    noisy = made + (made == 0) * np.random.default_rng(9).uniform(0.01, 0.02, made.shape)
    found, straight = baselines(noisy[None], made > 0), baselines(made[None])
    for name in ("area", "mean", "intensity"):
        assert found.scores[name] == pytest.approx(straight.scores[name], abs=1e-3), name
    assert not np.allclose(baselines(noisy[None]).scores["area"], straight.scores["area"])


def test_inputs_are_not_changed(native: torch.Tensor) -> None:
    before = native.clone()
    slice_baselines(native, (native > 0).any(dim=1), torch.arange(5))
    slice_baselines(native[:1], None, torch.tensor([0]))
    assert torch.equal(native, before)


def test_mistakes_are_told() -> None:
    with pytest.raises(InputError, match="found only background"):
        baselines(np.zeros((1, 16, 16, 16)))
    with pytest.raises(InputError, match="NaN"):
        picture_scores(np.full((1, 16, 16), np.nan, np.float32))
    with pytest.raises(InputError, match="at least 8 x 8"):
        block_score(np.zeros((4, 20)))


@needs_data
def test_sharpness_separates_the_radiographs() -> None:
    scores, labels = [], []
    for label, folder in enumerate(("train_normal", "val_pneumonia")):
        for path in sorted((Path(DATA) / "xray" / folder).glob("*.jpeg"))[:20]:
            grey = np.asarray(Image.open(path).convert("L"), np.float32) / 255
            scores.append(picture_scores(grey[None])["sharpness"])
            labels.append(label)
    found = image_metrics(labels, scores, np.zeros(40), np.arange(40))
    assert found["image_auroc"].value == pytest.approx(XRAY_AUROC, abs=1e-3)


@needs_data
def test_intensity_on_two_patients() -> None:
    histogram = PixelHistogram(default_edges())
    labels, scores, levels, patients = [], [], [], []
    for patient in ("Brats18_TCIA02_135_1", "Brats18_TCIA10_637_1"):
        folder = Path(DATA) / "brats" / patient
        image, lesion = (
            np.asanyarray(nib.load(next(folder.glob(f"*_{name}.nii*"))).dataobj)
            for name in ("t2", "seg")
        )
        found, body = baselines(image[None]), image > 0
        for level in range(25, 131):
            tumour = int((lesion[..., level] > 0).sum())
            if body[..., level].sum() < 6000 or 0 < tumour < 20:
                continue
            around = found.maps["intensity"][level]
            histogram.add(patient, around, lesion[..., level] > 0, body[..., level])
            labels.append(int(tumour > 0))
            scores.append(found.scores["intensity"][level])
            levels.append(level)
            patients.append(patient)
    image_level = image_metrics(labels, scores, np.zeros(len(labels)), patients)
    matched = matched_auroc(
        labels, scores, key=levels, tolerance=LEVEL_TOLERANCE, patients=patients
    )
    pixels = pixel_metrics(histogram, 1.0, resamples=10)
    found_values = (
        image_level["image_auroc"].value,
        matched.figure.value,
        pixels["pixel_ap"].value,
        pixels["dice_oracle"].value,
    )
    assert found_values == pytest.approx(T2_VALUES, abs=1e-3)


def test_wanted_slices_are_as_among_all() -> None:
    rng, body = np.random.default_rng(0), np.zeros((40, 44, 48), bool)
    body[9:30, 12:31, 14:33] = True
    stack = rng.normal(size=(2, *body.shape)).astype(np.float32)
    wanted, shown = [20, 21, 25], body[[20, 21, 25]]
    every, some = (volume_baselines(stack, body, np.array(n)) for n in (range(40), wanted))
    for name, scores in some.scores.items():
        np.testing.assert_array_equal(scores, every.scores[name][wanted])
    found, whole = some.maps["intensity"], every.maps["intensity"]
    np.testing.assert_array_equal(found[shown], whole[wanted][shown])
    z = intensity.robust_z(torch.from_numpy(stack[0]), torch.from_numpy(body), flat=True).numpy()
    alone = volume_baselines(stack[:1], body, np.arange(40)).maps["intensity"]
    np.testing.assert_array_equal(alone[body], gaussian_filter(z, 2.0)[body])

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from transforms.errors import InputError
from transforms.intensity import ScaleBody, body_mask, robust_z
from transforms.readers import read_image


def stripped_volume(seed: int = 0) -> MetaTensor:
    """Two channels on different scales inside a ball, exactly 0 outside."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(2, 20, 22, 24, generator=generator) + 1
    values[1] *= 1000
    grid = torch.stack(
        torch.meshgrid(*(torch.linspace(-1, 1, n) for n in (20, 22, 24)), indexing="ij")
    )
    return MetaTensor(values * (grid.square().sum(0) < 0.8), affine=2 * torch.eye(4))


def picture(values: np.ndarray, bits: int) -> MetaTensor:
    return MetaTensor(torch.from_numpy(values.astype(np.float32)), meta={"bit_depth": bits})


def test_body_is_what_is_not_zero_after_skull_stripping():
    volume = stripped_volume()
    assert torch.equal(body_mask(volume), volume.as_tensor() != 0)


def test_a_brain_may_touch_the_border_of_its_volume():
    volume = stripped_volume().as_tensor()[:, 6:, :, 5:]
    volume[:, :, 10:12] *= 0.01  # dark tissue, which a threshold would lose
    assert (volume[:, 0] != 0).any()
    assert torch.equal(body_mask(volume), volume != 0)


def test_body_lies_above_a_noisy_background():
    generator = torch.Generator().manual_seed(0)
    volume = 20 * torch.rand(1, 24, 24, 24, generator=generator)
    volume[:, 6:18, 6:18, 6:18] += 100
    volume[0, 10, 10, 10] = 32767
    expected = torch.zeros_like(volume, dtype=torch.bool)
    expected[:, 6:18, 6:18, 6:18] = True
    assert torch.equal(body_mask(volume), expected)


def test_zscore_matches_its_definition():
    volume = stripped_volume()
    scaled = ScaleBody("zscore")(volume)
    for channel, found in zip(volume.numpy(), scaled.numpy(), strict=True):
        inside = channel[channel != 0]
        low, median, high = np.percentile(inside, (25, 50, 75))
        z = np.clip((inside - median) / (high - low), -4, 8)
        np.testing.assert_allclose(found[channel != 0], (z + 4) / 12, atol=1e-6)
        assert (found[channel == 0] == 0).all()
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled.affine, volume.affine)


def test_scale_and_offset_of_the_scanner_do_not_matter():
    volume = stripped_volume()
    other = MetaTensor(torch.where(volume != 0, 3.5 * volume + 40, 0.0))
    torch.testing.assert_close(
        ScaleBody()(volume).as_tensor(), ScaleBody()(other).as_tensor(), atol=1e-5, rtol=0
    )


def test_outliers_hardly_matter_and_stay_in_range():
    volume = stripped_volume()
    spoiled = volume.clone()
    spoiled[0, 10, 10, 8:12] = 32767
    clean, scaled = ScaleBody()(volume), ScaleBody()(spoiled)
    assert float(scaled.max()) == 1.0
    assert float(scaled.min()) == 0.0
    untouched = spoiled[0] != 32767
    torch.testing.assert_close(
        scaled[0][untouched].as_tensor(), clean[0][untouched].as_tensor(), atol=1e-3, rtol=0
    )


def test_robust_z_is_not_clipped():
    volume = stripped_volume()
    volume[0, 10, 10, 10] = 32767
    body = body_mask(volume)
    assert float(robust_z(volume[0], body[0])[10, 10, 10]) > 10_000
    assert abs(np.median(robust_z(volume[1], body[1])[body[1]].numpy())) < 1e-5


def test_robust_z_uses_the_body_and_keeps_the_background_low():
    image = torch.tensor([[0.0, 0, 0, 0], [10, 20, 30, 40]])
    z = robust_z(image, image > 0)
    torch.testing.assert_close(z[1], (image[1] - 25) / 15)
    torch.testing.assert_close(z[0], torch.full((4,), -25 / 15))
    everywhere = torch.ones(2, 4, dtype=torch.bool)
    torch.testing.assert_close(robust_z(image, everywhere)[0, 0], torch.tensor(-5 / 22.5))


@pytest.mark.parametrize(("tissue", "expected"), [([5, 5, 5, 5], 0.0), ([5, 5, 5, 5, 9], 2.5)])
def test_robust_z_without_spread(tissue, expected):
    values = torch.tensor(tissue)
    assert float(robust_z(values, values > 0, flat=True)[-1]) == pytest.approx(expected)
    with pytest.raises(InputError, match="interquartile range of 0"):
        robust_z(values, values > 0)


def test_robust_z_names_what_it_cannot_use():
    values = torch.tensor([1.0, float("nan")])
    with pytest.raises(InputError, match="NaN"):
        robust_z(values, values > 0, flat=True)


def test_unit_keeps_exposure():
    values = np.array([[[0, 51], [102, 255]]])
    scaled = ScaleBody()(picture(values, 8))
    torch.testing.assert_close(scaled.as_tensor(), torch.tensor([[[0, 0.2], [0.4, 1]]]))
    dark = ScaleBody("unit")(picture(values, 16))
    torch.testing.assert_close(dark.as_tensor(), torch.tensor(values / 65535).float())


def test_percentile_clips_the_tails():
    values = np.arange(10_000).reshape(1, 100, 100)
    scaled = ScaleBody()(picture(values, 16))
    low, high = np.percentile(values, (0.5, 99.5))
    expected = np.clip((values - low) / (high - low), 0, 1)
    np.testing.assert_allclose(scaled.numpy(), expected, atol=1e-6)
    assert len(scaled.unique()) > 9_800


def test_percentile_of_a_volume_keeps_the_background():
    volume = stripped_volume()
    scaled = ScaleBody("percentile")(volume)
    assert float(scaled[volume == 0].max()) == 0
    assert float(scaled.max()) == 1


def test_auto_chooses_by_what_the_image_is():
    scale = ScaleBody()
    pixels = np.arange(16).reshape(1, 4, 4)
    assert scale.resolve(stripped_volume()) == "zscore"
    assert scale.resolve(picture(pixels, 8)) == "unit"
    assert scale.resolve(picture(pixels, 16)) == "percentile"
    assert ScaleBody("zscore").resolve(picture(pixels, 8)) == "zscore"
    with pytest.raises(InputError, match="bit depth None"):
        scale(torch.rand(1, 4, 4))


def test_input_is_left_alone():
    for image in (stripped_volume(), picture(np.arange(100).reshape(1, 10, 10), 16)):
        for method in ("auto", "zscore", "percentile"):
            before, meta = image.as_tensor().clone(), dict(image.meta)
            scaled = ScaleBody(method)(image)
            scaled += 1
            scaled.meta["bit_depth"] = 1
            assert torch.equal(image.as_tensor(), before)
            assert image.meta.get("bit_depth") == meta.get("bit_depth")


def test_what_cannot_be_scaled_is_refused():
    constant = MetaTensor(torch.zeros(1, 8, 8, 8), meta={"filename_or_obj": "x.nii"})
    with pytest.raises(InputError, match=r"x\.nii, channel 0: .*only background"):
        ScaleBody()(constant)
    constant[:, 2:6, 2:6, 2:6] = 7
    with pytest.raises(InputError, match=r"x\.nii, channel 0: .*interquartile range of 0"):
        ScaleBody()(constant)
    with pytest.raises(InputError, match="both percentiles"):
        ScaleBody("percentile")(picture(np.full((1, 4, 4), 9), 16))
    with pytest.raises(InputError, match="found -1 to"):
        ScaleBody("unit")(picture(np.arange(-1, 15).reshape(1, 4, 4), 16))
    with pytest.raises(InputError, match="expected .C, H, W"):
        ScaleBody()(torch.rand(4, 4))
    volume = stripped_volume()
    volume[0, 3, 3, 3] = float("nan")
    for method in ("zscore", "percentile"):
        with pytest.raises(InputError, match="NaN"):
            ScaleBody(method)(volume)


def test_an_unknown_method_is_named():
    with pytest.raises(InputError, match="method"):
        ScaleBody("minmax")


@pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="no AEFLOW_DATA_DIR")
def test_brats_with_extreme_values():
    name = "Brats18_TCIA10_637_1"
    path = Path(os.environ["AEFLOW_DATA_DIR"]) / "brats" / name / f"{name}_t2.nii.gz"
    volume = read_image(path)
    scaled = ScaleBody()(volume)
    inside = scaled[volume > 0]
    assert abs(float(inside.median()) - 4 / 12) < 1e-4
    assert float(inside.std()) > 0.03
    assert float(scaled[volume == 0].abs().max()) == 0

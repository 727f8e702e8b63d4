import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from transforms.contrast import LocalContrast
from transforms.errors import InputError


def picture(shape=(1, 40, 32), seed=0) -> torch.Tensor:
    """Noise on a slope, far from flat everywhere."""
    generator = torch.Generator().manual_seed(seed)
    slope = torch.linspace(0.2, 0.6, shape[-1])
    return slope + 0.3 * torch.rand(shape, generator=generator)


def naive(image: np.ndarray, sigma: float, limit: float, floor: float) -> np.ndarray:
    """One channel, pixel by pixel."""
    radius = int(np.ceil(3 * sigma))
    offsets = np.arange(-radius, radius + 1)
    line = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights = np.outer(line, line) / np.outer(line, line).sum()
    padded = np.pad(image.astype(np.float64), radius, mode="reflect")
    result = np.empty(image.shape)
    for y, x in np.ndindex(image.shape):
        window = padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1]
        mean = (weights * window).sum()
        deviation = np.sqrt((weights * (window - mean) ** 2).sum())
        z = (image[y, x] - mean) / max(deviation, floor)
        result[y, x] = (np.clip(z, -limit, limit) + limit) / (2 * limit)
    return result


def test_equals_a_naive_loop():
    image = picture((2, 24, 20))
    image[1] = 0.5 + 0.02 * image[1]
    image[0, 10, 10] = 5.0
    result = LocalContrast(sigma=0.1, limit=2.0, least_deviation=0.004)(image)
    expected = np.stack([naive(channel, 2.0, 2.0, 0.004) for channel in image.numpy()])
    assert result.dtype == torch.float32 and float(result[0, 10, 10]) == 1.0
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)


@given(scale=st.floats(0.3, 100), shift=st.floats(-100, 100), seed=st.integers(0, 9))
def test_exposure_makes_no_difference(scale, shift, seed):
    image = picture(seed=seed).double()
    changed = LocalContrast()(scale * image + shift)
    torch.testing.assert_close(changed, LocalContrast()(image), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 1000.0])
def test_a_flat_image_is_grey(value):
    assert bool((LocalContrast()(torch.full((3, 16, 16), value)) == 0.5).all())


def test_noise_of_a_flat_background_stays_small():
    noise = 0.001 * torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert float((LocalContrast()(0.1 + noise) - 0.5).abs().max()) < 0.1
    assert float(LocalContrast(least_deviation=1e-6)(0.1 + noise).std()) > 0.1


def test_far_pixels_make_no_difference():
    image = picture((1, 64, 64))
    changed = image.clone()
    changed[0, :8, :8] = 1.0
    contrast = LocalContrast(sigma=4 / 64)
    before, after = contrast(image), contrast(changed)
    assert torch.equal(before[:, 20:], after[:, 20:])
    assert torch.equal(before[..., 20:], after[..., 20:])
    assert not torch.equal(before[0, 8:16, 8:16], after[0, 8:16, 8:16])


def test_the_window_grows_with_the_image():
    small, large = picture((1, 32, 32)), picture((1, 32, 32)).repeat_interleave(2, 1)
    large = large.repeat_interleave(2, 2)
    fine = LocalContrast(limit=4.0)(large)[:, ::2, ::2]
    torch.testing.assert_close(fine, LocalContrast(limit=4.0)(small), atol=0.03, rtol=0)


def test_kind_shape_and_meta_data_stay():
    image = picture((2, 24, 20))
    before = image.clone()
    expected = LocalContrast()(image)
    assert torch.equal(image, before) and expected.shape == image.shape
    assert 0 <= float(expected.min()) < 0.2 and 0.8 < float(expected.max()) <= 1
    array = LocalContrast()(image.numpy().astype(np.float64))
    assert isinstance(array, np.ndarray) and array.dtype == np.float32
    np.testing.assert_array_equal(array, expected.numpy())
    meta = LocalContrast()(MetaTensor(image, meta={"filename_or_obj": "chest.png"}))
    assert isinstance(meta, MetaTensor) and meta.meta["filename_or_obj"] == "chest.png"
    torch.testing.assert_close(LocalContrast()(image[:, None]), expected[:, None])


def test_options_travel_and_are_checked():
    options = {"sigma": 0.2, "limit": 2.0, "least_deviation": 0.1}
    again = LocalContrast(**LocalContrast(**options).parameters)
    assert again.parameters == options
    assert torch.equal(again(picture()), LocalContrast(**options)(picture()))
    for name in options:
        with pytest.raises(InputError, match=f"{name}: expected a number above 0, found 0"):
            LocalContrast(**{name: 0})
    with pytest.raises(InputError, match="image: expected .* found the shape"):
        LocalContrast()(torch.zeros(8, 8))

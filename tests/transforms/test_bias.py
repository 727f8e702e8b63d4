import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from transforms.bias import BiasCorrect
from transforms.errors import InputError
from transforms.intensity import ScaleBody, body_mask
from transforms.readers import read_image


def shaded(shape=(24, 26, 20)) -> tuple[MetaTensor, torch.Tensor]:
    """Two tissues in a ball under a smooth field; and the field."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = (x.square() + y.square() + z.square()) < 0.8
    generator = torch.Generator().manual_seed(0)
    tissue = torch.where((x * 12).sin() * (y * 12).cos() * (z * 12).cos() > 0, 100.0, 140.0)
    field = torch.exp(0.5 * x + 0.3 * y)
    noise = 1 + 0.02 * torch.randn(shape, generator=generator)
    image = MetaTensor((tissue * noise * field * body)[None], affine=2 * torch.eye(4))
    image.meta["filename_or_obj"] = "head.nii"
    return image, field


def variation(values: torch.Tensor) -> float:
    return float(values.std() / values.mean())


def test_a_smooth_field_is_removed():
    image, field = shaded()
    before = image.as_tensor().clone()
    corrected = BiasCorrect(body_mask)(image)
    inside = (image > 0).as_tensor()
    removed = (image / corrected).as_tensor()[inside].log().numpy()
    assert np.corrcoef(removed, field[None][inside].log().numpy())[0, 1] > 0.95
    tissue = inside & (before < 1e9)
    assert variation(corrected.as_tensor()[tissue]) < 0.7 * variation(before[tissue])
    assert corrected.shape == image.shape and torch.equal(corrected.affine, image.affine)
    assert float(corrected[~inside].abs().max()) == 0
    assert torch.equal(image.as_tensor(), before)


def test_it_repeats():
    image, _ = shaded()
    once, again = (BiasCorrect(body_mask)(image).as_tensor() for _ in range(2))
    assert torch.equal(once, again)


def test_thin_volumes_and_outliers():
    image, _ = shaded((24, 26, 3))
    image[0, 12, 13, 1] = 32767
    corrected = BiasCorrect(body_mask)(image)
    assert bool(torch.isfinite(corrected.as_tensor()).all())
    assert 0.2 < float(corrected[0, 12, 13, 1] / 32767) < 5


def test_scaling_corrects_before():
    image, _ = shaded()
    expected = ScaleBody()(BiasCorrect(body_mask)(image))
    assert torch.equal(ScaleBody(n4=True)(image).as_tensor(), expected.as_tensor())


def test_what_has_no_field_is_refused():
    image, _ = shaded()
    negative = MetaTensor(image.as_tensor() - 120 * (image.as_tensor() > 0), meta=image.meta)
    with pytest.raises(InputError, match="head.nii, channel 0: .*values from -"):
        BiasCorrect(body_mask)(negative)
    image.meta["modality"] = "CT"
    with pytest.raises(InputError, match="found CT"):
        ScaleBody(n4=True)(image)
    with pytest.raises(InputError, match="found a picture"):
        BiasCorrect(body_mask)(torch.rand(1, 8, 8))


@pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="no AEFLOW_DATA_DIR")
def test_a_real_t2_becomes_more_even(tmp_path):
    name = "Brats18_TCIA10_637_1"
    path = Path(os.environ["AEFLOW_DATA_DIR"], "brats", name, f"{name}_t2.nii.gz")
    nib.save(nib.load(path).slicer[::2, ::2, ::2], tmp_path / "small.nii")
    image = read_image(tmp_path / "small.nii")
    corrected = BiasCorrect(body_mask)(image)
    inside = (image > 0).as_tensor()
    top = [np.percentile(item.as_tensor()[inside], 99) for item in (image, corrected)]
    before, after = (
        variation(item.as_tensor()[inside & (item.as_tensor() < limit)])
        for item, limit in zip((image, corrected), top, strict=True)
    )
    assert after < 0.95 * before
    np.testing.assert_array_equal(corrected.affine.numpy(), image.affine.numpy())

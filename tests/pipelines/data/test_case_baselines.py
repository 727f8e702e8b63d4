"""Trivial scores of a case's slices."""

import numpy as np
import pytest
import torch

from pipelines.data.baselines import BASELINES, baseline_scores, volume_baselines
from pipelines.data.case_baselines import slice_baselines


@pytest.fixture
def native() -> torch.Tensor:
    """Five slices of two channels, `(5, 2, 24, 20)`, with a zero background."""
    values = torch.rand(5, 2, 24, 20, generator=torch.Generator().manual_seed(0)) + 1
    values[..., :3] = 0
    return values


def test_a_volumes_slices_keep_their_place(native: torch.Tensor) -> None:
    found = slice_baselines(native, torch.tensor([3, 0]), volumetric=True)
    whole = volume_baselines(native.permute(1, 2, 3, 0).numpy(), axis=2)
    assert set(found.scores) == set(BASELINES)
    for name, values in found.scores.items():
        np.testing.assert_allclose(values, whole.scores[name][[3, 0]], rtol=1e-6, err_msg=name)
    assert found.intensity_map is not None and found.intensity_map.shape == (2, 24, 20)
    np.testing.assert_allclose(found.intensity_map, whole.intensity_map[[3, 0]], rtol=1e-5)


def test_a_picture_has_scores_but_no_map(native: torch.Tensor) -> None:
    found = slice_baselines(native[:1], torch.tensor([0]), volumetric=False)
    expected = baseline_scores(native[0].numpy())
    assert found.intensity_map is None
    assert {name: values.tolist() for name, values in found.scores.items()} == {
        name: [value] for name, value in expected.items()
    }

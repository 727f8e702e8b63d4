import pytest
import torch
from monai.losses.ssim_loss import SSIMLoss

from networks.similarity import StructuralSimilarity


@pytest.mark.parametrize("size", [(24, 37), (12, 13, 16)])
def test_it_is_monai_s(size):
    torch.manual_seed(0)
    x, y = torch.rand(2, 3, 2, *size)
    ssim = SSIMLoss(spatial_dims=len(size), data_range=1.0, reduction="none")
    expected = 1 - ssim(x, y).flatten(1)
    torch.testing.assert_close(StructuralSimilarity()(x, y), expected.mean(dim=1))


def test_of_a_signal_it_is_that_of_an_image_of_equal_rows():
    x, y = torch.rand(2, 3, 2, 37)
    rows = [one[:, :, None].expand(-1, -1, 14, -1) for one in (x, y)]
    torch.testing.assert_close(StructuralSimilarity()(x, y), StructuralSimilarity()(*rows))


@pytest.mark.parametrize("size", [(37,), (20, 16), (12, 13, 16)])
def test_both_ways_to_move_the_window_agree(monkeypatch, size):
    x, y = torch.rand(2, 2, 1, *size)
    expected = StructuralSimilarity()(x, y)
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: True)
    torch.testing.assert_close(StructuralSimilarity()(x, y), expected)

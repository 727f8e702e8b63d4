import torch
from monai.losses.ssim_loss import SSIMLoss

from networks.similarity import StructuralSimilarity


def test_it_is_monai_s():
    torch.manual_seed(0)
    x, y = torch.rand(3, 2, 24, 37), torch.rand(3, 2, 24, 37)
    expected = 1 - SSIMLoss(spatial_dims=2, data_range=1.0, reduction="none")(x, y).flatten(1)
    torch.testing.assert_close(StructuralSimilarity()(x, y), expected.mean(dim=1))


def test_both_ways_to_move_the_window_agree(monkeypatch):
    x, y = torch.rand(2, 1, 20, 16), torch.rand(2, 1, 20, 16)
    expected = StructuralSimilarity()(x, y)
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: True)
    torch.testing.assert_close(StructuralSimilarity()(x, y), expected)

"""Windows of a signal and the way back."""

import numpy as np
import pytest
import torch

from transforms.signals import SignalGeometry, window_starts


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_windows_joined_again_are_the_signal(stride):
    signal = torch.rand(2, 75)
    geometry = SignalGeometry(75, 16, tuple(window_starts(np.ones(75, bool), 16, stride)))

    windows = geometry.cut(signal)

    assert windows.shape == (len(geometry.starts), 2, 16)
    joined = geometry.blend(windows, torch.arange(len(windows)))
    assert torch.allclose(joined, signal, atol=1e-6)


def test_where_no_window_is_stands_nan_and_middles_count_more():
    geometry = SignalGeometry(20, 8, tuple(window_starts(np.ones(20, bool), 8, 4)))
    chosen = torch.tensor([0, 1])

    joined = geometry.blend(torch.tensor([[0.0] * 8, [1.0] * 8]), chosen)

    assert joined[12:].isnan().all() and (joined[:4] == 0).all() and (joined[8:12] == 1).all()
    assert joined[4:8].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_windows_reach_to_both_sides_of_a_long_gap_and_over_short_ones():
    seen = np.ones(60, bool)
    seen[21:30] = seen[40] = seen[55:] = False

    assert window_starts(seen, 8, 8) == [0, 8, 13, 30, 32, 41, 47]
    assert window_starts(seen, 8, 8, longest=1) == [0, 8, 13, 30, 38, 46, 47]

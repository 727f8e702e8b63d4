"""Synthetic anomalies of signals: each kind shows, where it says, and by the source alone."""

import pytest
import torch

from transforms.errors import InputError
from transforms.signals import SIGNAL_KINDS, SignalAnomalies, SignalRecipe, mild_signal_changes

PHASE = torch.linspace(0, 6, 64)[:, None, None]
WINDOWS = 0.5 + 0.2 * torch.sin(torch.arange(128.0) / 6 + PHASE + torch.tensor([[0.0], [1.0]]))
ALL = torch.ones(64, 1, 128, dtype=torch.bool)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", SIGNAL_KINDS)
def test_a_kind_changes_what_it_marks_and_nothing_else(kind):
    body = ALL.clone()
    body[..., 40:60] = False

    changed, mask = SignalAnomalies().only(kind, 0.1, 0.3)(WINDOWS, body, ALL, source())

    marked = mask.bool().expand_as(WINDOWS)
    lengths = mask.sum(dim=2).flatten()
    assert (lengths > 0).float().mean() > 0.7 and lengths.max() <= 0.31 * 128
    difference = (changed - WINDOWS).abs()
    touched = marked.any(dim=2, keepdim=True)
    assert difference[touched.expand_as(WINDOWS) & ~marked].max() == 0
    assert difference[marked].mean() > 0.02 and not mask[..., 40:60].any()
    assert (changed[..., 40:60] == WINDOWS[..., 40:60]).all()
    assert changed.min() >= 0 and changed.max() <= 1
    assert bool((difference[touched.expand(-1, 2, -1).squeeze(2)].sum(dim=1) == 0).any())


def test_a_batch_is_a_function_of_its_source():
    make = SignalAnomalies()

    first, mask = make(WINDOWS, ALL, ALL, source())
    again, same = make(WINDOWS, ALL, ALL, source())
    other, _ = make(WINDOWS, ALL, ALL, source(1))

    assert torch.equal(first, again) and torch.equal(mask, same) and not torch.equal(first, other)
    clean = mask.flatten(1).sum(dim=1) == 0
    assert 0.3 < clean.float().mean() < 0.55
    assert (first - WINDOWS).abs()[clean].mean() < 0.02  # all are varied a little


def test_an_unknown_kind_is_told():
    with pytest.raises(InputError, match="kinds: expected names among spike"):
        SignalAnomalies(SignalRecipe(kinds=("spikes",)))


@pytest.mark.parametrize("name", mild_signal_changes())
def test_mild_changes_are_mild_and_grow(name):
    once, more = (mild_signal_changes(s)[name](WINDOWS) for s in (0.5, 1.0))

    small, large = ((one - WINDOWS).abs().mean() for one in (once, more))
    assert 0 < small <= large < 0.05 and more.shape == WINDOWS.shape

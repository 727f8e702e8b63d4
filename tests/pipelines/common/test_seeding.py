"""Randomness without history."""

from typing import Any

import torch
from torch.utils.data import DataLoader

from pipelines.common.seeding import EpochSampler, derive_seed, generator


def order(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_seeds_differ_in_every_part_and_fit_a_generator() -> None:
    seeds = {
        derive_seed(seed, phase, epoch, index)
        for seed in (0, 1, 12)
        for phase in ("train", "pretrain")
        for epoch in (1, 2, 23)
        for index in (0, 3)
    }
    assert len(seeds) == 36
    assert derive_seed(0, "train", 1, 23) != derive_seed(0, "train", 12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_ignores_the_global_state() -> None:
    first = torch.rand(3, generator=generator(3, "train", 1))
    torch.manual_seed(7)
    assert torch.equal(first, torch.rand(3, generator=generator(3, "train", 1)))


def test_an_epochs_order_needs_no_history() -> None:
    straight = EpochSampler(range(20), seed=1, phase="train")
    orders = [order(straight, epoch) for epoch in (1, 2, 3)]
    assert order(EpochSampler(range(20), 1, "train"), 3) == orders[2]
    assert len({tuple(one) for one in orders}) == 3
    assert all(sorted(one) == list(range(20)) for one in orders)
    assert order(EpochSampler(range(20), 2, "train"), 3) != orders[2]
    assert order(EpochSampler(range(20), 1, "pretrain"), 3) != orders[2]


def test_small_data_are_gone_through_several_times() -> None:
    sampler = EpochSampler(range(8), 0, "train", min_samples=20)
    found = order(sampler, 1)
    assert len(sampler) == len(found) == 24
    rounds = [found[start : start + 8] for start in (0, 8, 16)]
    assert all(sorted(one) == list(range(8)) for one in rounds)
    assert rounds[0] != rounds[1]
    assert len(EpochSampler(range(8), 0, "train", min_samples=8)) == 8


def test_workers_do_not_change_the_order() -> None:
    sampler = EpochSampler(range(10), 0, "train")
    data: Any = range(10)
    alone, with_workers = (
        [int(i) for batch in DataLoader(data, 3, sampler=sampler, num_workers=n) for i in batch]
        for n in (0, 2)
    )
    assert alone == with_workers == order(sampler, 1)

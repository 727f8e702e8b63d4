"""Randomness without history."""

from typing import Any

import pytest
import torch
from monai.engines.workflow import Workflow
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


def test_the_order_is_the_same_in_every_version() -> None:
    assert order(EpochSampler(range(6), 3, "train", min_samples=12), 2) == [
        1,
        2,
        4,
        0,
        5,
        3,
        0,
        4,
        5,
        2,
        3,
        1,
    ]


@pytest.mark.parametrize(
    ("size", "least", "replicas"), [(10, 0, 2), (10, 15, 3), (2, 0, 5), (0, 0, 2)]
)
def test_processes_share_an_epoch(size: int, least: int, replicas: int) -> None:
    whole = order(EpochSampler(range(size), 1, "train", least), 2)
    samplers = [
        EpochSampler(range(size), 1, "train", least, num_replicas=replicas, rank=rank)
        for rank in range(replicas)
    ]
    shares = [order(sampler, 2) for sampler in samplers]
    dealt = [index for turn in zip(*shares, strict=True) for index in turn]
    assert dealt == (3 * whole)[: len(dealt)]
    assert len(whole) <= len(dealt) < len(whole) + replicas
    assert {len(sampler) for sampler in samplers} == {len(shares[0])}


def test_monais_trainers_choose_the_epoch() -> None:
    sampler = EpochSampler(range(6), 0, "train")
    loader: Any = DataLoader(range(6), 6, sampler=sampler)  # type: ignore[arg-type]
    seen: list[list[int]] = []
    Workflow("cpu", 3, loader, iteration_update=lambda _, batch: seen.append(batch.tolist())).run()
    assert seen == [order(sampler, epoch) for epoch in (1, 2, 3)]


def test_workers_do_not_change_the_order() -> None:
    sampler = EpochSampler(range(10), 0, "train")
    data: Any = range(10)
    alone, with_workers = (
        [int(i) for batch in DataLoader(data, 3, sampler=sampler, num_workers=n) for i in batch]
        for n in (0, 2)
    )
    assert alone == with_workers == order(sampler, 1)

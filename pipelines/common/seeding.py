"""Randomness as a function of (seed, phase, epoch, index), never of history."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sized
from itertools import cycle, islice
from typing import Any

import torch
from torch.utils.data import DistributedSampler


def derive_seed(seed: int, phase: str, *numbers: int) -> int:
    """Derives an independent seed for a phase and the numbers of an epoch, a batch or an index.

    Args:
        seed: the run's seed.
        phase: name of the phase, e.g. ``"train"``.
        numbers: what distinguishes draws within the phase, e.g. epoch and batch.

    Returns:
        A seed in [0, 2**63).

    Example:
        >>> derive_seed(1, "train", 3) == derive_seed(1, "train", 3)
        True
        >>> derive_seed(1, "train", 3) == derive_seed(1, "train", 4)
        False
    """
    text = ":".join([str(seed), phase, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(
    seed: int, phase: str, *numbers: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A random generator on a device, seeded by `derive_seed`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, phase, *numbers))


class EpochSampler(DistributedSampler[int]):
    """Shuffles by (seed, phase, epoch), so that an epoch's order needs no history.

    Several processes share an epoch's order; the first samples fill it up to a multiple of them.

    Args:
        data: what is sampled; only its length is used.
        seed: the run's seed.
        phase: name of the phase.
        min_samples: least length of an epoch; fewer data are gone through several times.
        num_replicas: number of processes.
        rank: which of them this is, from 0.

    Attributes:
        start: samples of this process that the next epoch leaves out, which an interrupted
            training has already seen; then 0 again.
    """

    def __init__(
        self,
        data: Sized,
        seed: int,
        phase: str,
        min_samples: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.size = len(data)
        self.rounds = max(1, math.ceil(min_samples / max(1, self.size)))
        whole: Any = range(self.size * self.rounds)
        super().__init__(whole, num_replicas, rank, seed=seed)
        self.phase = phase
        self.epoch = 1
        self.start = 0

    def __iter__(self) -> Iterator[int]:
        """Yields this process's share of every index once per round, in the epoch's order."""
        source = generator(self.seed, self.phase, self.epoch)
        rounds = [torch.randperm(self.size, generator=source) for _ in range(self.rounds)]
        order = cycle(torch.cat(rounds).tolist())
        start, self.start = self.start, 0
        first = self.rank + start * self.num_replicas
        return islice(order, first, self.total_size, self.num_replicas)

"""The processes of one run, as torchrun starts them; a run of one process does none of this.

Ignite's tools join the processes and reduce over them, and its metrics over theirs. What the host
decides (who stops when, which cases are left) goes through a gloo group, so that no GPU waits.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import Tensor, nn

from transforms.errors import InputError

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others before it ends with an error."""


@dataclass
class _Place:
    rank: int = 0
    size: int = 1
    host: Any = None


_place = _Place()


def join(device: str = "auto") -> None:
    """Joins the processes that torchrun started beside this one, if there are any.

    Args:
        device: where to compute; ``auto`` gives each process a GPU of its own, where there are any.

    Raises:
        InputError: when there are not as many GPUs as processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == _place.size:  # alone, or joined before
        return
    if device not in ("auto", "cuda", "cpu"):
        raise InputError(
            f"device: each of several processes takes a GPU of its own, found {device!r}. Leave "
            "the option out, or give cpu."
        )
    gpu = device != "cpu" and torch.cuda.is_available()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if gpu and here > torch.cuda.device_count():
        raise InputError(
            f"nproc_per_node: expected at most one process for each of the "
            f"{torch.cuda.device_count()} GPUs of this machine, found {here}. Start fewer, or give "
            "--device cpu."
        )
    os.environ.pop("SLURM_JOB_ID", None)  # Ignite would take Slurm's tasks for the processes
    idist.initialize("nccl" if gpu else "gloo", timeout=PATIENCE)
    _place.rank, _place.size = idist.get_rank(), size
    _place.host = dist.new_group(backend="gloo", timeout=PATIENCE) if gpu else None
    if not is_main():
        logging.disable(logging.INFO)


def leave() -> bool:
    """Ends what the processes do together.

    Returns:
        Whether this is the first one, which writes the results; the others are done.
    """
    if _place.size > 1:
        barrier()
        idist.finalize()
        _place.size, _place.host = 1, None
    return is_main()


def processes() -> int:
    """How many work together."""
    return _place.size


def rank() -> int:
    """The number of this process, from 0."""
    return _place.rank


def is_main() -> bool:
    """Whether this is the first process, the only one that writes, tracks and tells."""
    return _place.rank == 0


def own_draw() -> tuple[int, ...]:
    """What a random draw depends on beside what is counted; nothing in the first process."""
    return () if is_main() else (_place.rank,)


def barrier() -> None:
    """Waits until all processes are here."""
    if _place.size > 1:
        dist.barrier(group=_place.host)


@contextmanager
def main_first() -> Iterator[None]:
    """Lets the other processes run a block when the first one is through."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def from_main(make: Callable[[], T]) -> T:
    """What the first process makes, in all."""
    if _place.size == 1:
        return make()
    made: list[Any] = [make() if is_main() else None]
    dist.broadcast_object_list(made, src=0, group=_place.host)
    found: T = made[0]
    return found


def of_all(items: list[T]) -> list[T]:
    """The items of all processes in all of them, those of the first one first; tensors on the CPU.

    Example:
        >>> of_all([1, 2])
        [1, 2]
    """
    if _place.size == 1:
        return items
    found: list[list[T]] = [[]] * _place.size
    dist.all_gather_object(found, items, group=_place.host)
    return [one for own in found for one in own]


def to_main(items: list[T]) -> list[T]:
    """The items of all processes in the first one, its own first; the others keep their own."""
    if _place.size == 1:
        return items
    found: list[list[T]] | None = [[]] * _place.size if is_main() else None
    dist.gather_object(items, found, dst=0, group=_place.host)
    return items if found is None else [one for own in found for one in own]


def largest(*numbers: int) -> list[int]:
    """The largest of each number over all processes."""
    if _place.size == 1:
        return list(numbers)
    told = torch.tensor(numbers)
    dist.all_reduce(told, dist.ReduceOp.MAX, group=_place.host)
    return told.tolist()


def share(count: int, batch_size: int) -> range:
    """The items that are this process's, in whole batches as one process would form them.

    Where there are fewer batches than processes, each process has all items.

    Args:
        count: of all items.
        batch_size: items in a batch.
    """
    batches = math.ceil(count / batch_size)
    if batches < _place.size:
        return range(count)
    first, end = (batches * one // _place.size for one in (_place.rank, _place.rank + 1))
    return range(first * batch_size, min(end * batch_size, count))


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Puts the mean over all processes in the place of dense tensors of one type and device."""
    if _place.size == 1 or not tensors:
        return
    stored = [one.as_strided((one.numel(),), (1,)) for one in tensors]  # channels-last as it lies
    total = idist.all_reduce(torch.cat(stored))
    assert isinstance(total, Tensor)
    parts = total.div_(_place.size).split([len(one) for one in stored])
    torch._foreach_copy_(stored, list(parts))


@torch.no_grad()
def take_from_main(module: nn.Module) -> None:
    """Gives all processes the weights and buffers of the first one."""
    if _place.size > 1:
        for value in module.state_dict().values():
            value.copy_(idist.broadcast(value, src=0))


def first_to_fail() -> bool:
    """Whether no other process has told an error yet, by the store that torchrun keeps."""
    asked = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")
    host, port, kept = (os.environ.get(name, "") for name in asked)
    if kept != str(True) or os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    try:
        store = dist.TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=10))
        told: int = store.add(f"failures {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", 1)
    except RuntimeError:  # torchrun itself is gone
        return True
    return told == 1

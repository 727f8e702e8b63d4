"""Several processes as one, where one process can show it."""

from datetime import timedelta

import pytest
import torch.distributed as dist

from pipelines.common import distributed
from pipelines.common.distributed import first_to_fail, join, share
from pipelines.common.seeding import EpochSampler
from transforms.errors import InputError


def place(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    monkeypatch.setattr(distributed, "_place", distributed._Place(rank, size))


@pytest.mark.parametrize(("count", "size"), [(10, 2), (11, 3), (16, 3), (100, 7)])
def test_shares_are_whole_batches_in_order(
    count: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    for rank in range(size):
        place(monkeypatch, rank, size)
        own = share(count, 4)
        assert len(own) > 0
        batches += [list(own[start : start + 4]) for start in range(0, len(own), 4)]
    assert batches == [list(range(count)[start : start + 4]) for start in range(0, count, 4)]


def test_fewer_batches_than_processes_are_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, 2, 3)
    assert share(8, 4) == range(8)


def test_shuffled_batches_together_are_that_of_one_process() -> None:
    (whole,) = [list(EpochSampler(range(10), 3, "train"))]
    shares = [list(EpochSampler(range(10), 3, "train", 0, 2, rank)) for rank in (0, 1)]
    for start in range(0, 10, 4):
        own = [one[start // 2 : start // 2 + 2] for one in shares]
        assert sorted(sum(own, [])) == sorted(whole[start : start + 4])


def test_one_process_of_a_failed_run_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_to_fail()  # alone
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=10))
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    for name, value in (told | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        monkeypatch.setenv(name, value)
    assert [first_to_fail() for _ in range(3)] == [True, False, False]


def test_a_named_gpu_is_no_place_for_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="a GPU of its own"):
        join("cuda:0")

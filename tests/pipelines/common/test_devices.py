from threading import Thread

import pytest
import torch

from pipelines.common.devices import (
    choose_device,
    compiling_pays,
    environments,
    pays_bfloat16,
    worker_threads,
)


@pytest.mark.parametrize(("gpu", "kind"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_taken_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, kind: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose_device("auto").type == kind
    assert choose_device("cpu").type == "cpu" and choose_device("cuda:1").index == 1


@pytest.mark.parametrize(
    ("device", "told", "expected"), [("cuda", None, 8), ("cpu", None, 32), ("cuda", "32", 32)]
)
def test_a_gpu_leaves_little_to_the_host(
    monkeypatch: pytest.MonkeyPatch, device: str, told: str | None, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    before = torch.get_num_threads()
    torch.set_num_threads(32)
    try:
        choose_device(device)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_only_long_runs_on_a_gpu_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert compiling_pays("auto", gpu, 100, 100)
    assert not compiling_pays("auto", gpu, 99, 100) and not compiling_pays("auto", cpu, 100, 100)
    assert compiling_pays("always", cpu, 0, 100) and not compiling_pays("never", gpu, 100, 100)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not compiling_pays("auto", gpu, 100, 100)


def test_bfloat16_pays_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, expected in (({"avx512_bf16": True}, True), ({"avx2": True}, False), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert pays_bfloat16(torch.device("cpu")) is expected
        assert not pays_bfloat16(torch.device("cpu"), spatial_dims=3)
    assert pays_bfloat16(torch.device("cuda"), spatial_dims=3)
    assert pays_bfloat16(torch.device("cuda")) and not pays_bfloat16(torch.device("mps"))


def test_programs_at_once_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-b")
    for name in ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    found = environments(3)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["4", "GPU-b", "4"]
    assert {one["OMP_NUM_THREADS"] for one in found} == {"2"}
    assert {one["LOKY_MAX_CPU_COUNT"] for one in found} == {"2"}
    assert all("CUDA_VISIBLE_DEVICES" not in one for one in environments(3, "cpu"))


@pytest.mark.parametrize(
    ("cores", "workers", "expected"), [(1, 2, 1), (2, 1, 2), (8, 4, 2), (13, 2, 3)]
)
def test_workers_share_half_of_the_threads_and_leave_others_as_they_are(
    cores: int, workers: int, expected: int
) -> None:
    before = torch.get_num_threads()
    later: list[int] = []
    torch.set_num_threads(cores)
    try:
        with worker_threads(workers, "reader") as pool:
            inside = [pool.submit(_computed) for _ in range(8)]
            assert {one.result() for one in inside} == {expected}
        thread = Thread(target=lambda: later.append(_computed()))
        thread.start()
        thread.join()
        assert (torch.get_num_threads(), later) == (cores, [cores])
    finally:
        torch.set_num_threads(before)


def _computed() -> int:
    torch.zeros(100_000).exp()
    return torch.get_num_threads()

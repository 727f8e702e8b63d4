"""Where to compute, and how."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import ignite.distributed as idist
import torch
from threadpoolctl import threadpool_limits

from pipelines.common.distributed import processes

HOST_THREADS = 8
"""Threads of the host that PyTorch takes beside a GPU: for small work more wait for each other."""


def choose_device(device: str = "auto") -> torch.device:
    """The device of this name; ``auto`` is the GPU, where there is one, or this process's own.

    Beside a GPU, PyTorch takes `HOST_THREADS` from now on, unless ``OMP_NUM_THREADS`` is set.
    """
    if device != "cpu" and processes() > 1:
        return idist.device()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(HOST_THREADS, torch.get_num_threads()))
    return chosen


def environments(count: int, device: str = "auto") -> list[dict[str, str]]:
    """What to add to the environments of so many programs at once, which share the machine.

    Args:
        count: of the programs.
        device: where they compute; ``auto`` or ``cuda`` gives them the GPUs in turn.
    """
    threads = str(max(1, (os.cpu_count() or 1) // count))
    limits = ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT")  # of PyTorch and NumPy; of joblib
    found = [{name: os.environ.get(name, threads) for name in limits}] * count
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if not gpus:
        return found
    told = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    names = told.split(",")[:gpus]
    return [one | {"CUDA_VISIBLE_DEVICES": names[n % gpus]} for n, one in enumerate(found)]


def spare_threads() -> int:
    """Threads that read, and as many that write, beside the scoring: 1 on a laptop, 4 at most."""
    return min(4, max(1, (os.cpu_count() or 1) // 4))


def worker_threads(count: int, name: str = "worker") -> ThreadPoolExecutor:
    """So many threads, in which PyTorch takes half of its threads in all, two in each at least.

    Else it would take as many in each as there are cores, which then wait for each other.
    """
    there = torch.get_num_threads()
    own = min(there, max(2, there // (2 * count)))
    return ThreadPoolExecutor(count, name, initializer=_limit_threads, initargs=(own,))


def _limit_threads(count: int) -> None:
    torch.get_num_threads()  # sets the number of this thread of Python, at its first use
    threadpool_limits(count, user_api="openmp")


def compiling_pays(wanted: str, device: torch.device, images: int, repaid: int) -> bool:
    """Whether to compile what images go through.

    Args:
        wanted: ``always``, ``never``, or ``auto``: on a GPU, where there are compilers, for a run
            that is long enough.
        device: where to compute.
        images: that will go through it.
        repaid: images over which compiling is repaid.
    """
    if wanted != "auto":
        return wanted == "always"
    able = importlib.util.find_spec("triton") and (shutil.which("cc") or shutil.which("gcc"))
    return device.type == "cuda" and images >= repaid and bool(able)


def pays_bfloat16(device: torch.device, spatial_dims: int = 2) -> bool:
    """Whether a network trains faster in bfloat16: on a GPU, or a CPU with instructions for it.

    On a CPU with AVX512_BF16 a step of the pre-training took 0.55 of its time in float32; without
    such instructions bfloat16 is emulated, and slower. Of volumes it is never taken there: the
    weights' gradients of three-dimensional convolutions then hold NaN now and then (PyTorch 2.13).
    """
    if device.type == "cpu":
        if spatial_dims > 2:
            return False
        found: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return device.type == "cuda"

"""The machine's load while a run goes on, by MLflow's own names."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from pipelines.tracking.link import Record
from transforms.errors import InputError

INTERVAL_VARIABLE = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
SECONDS = 10.0
"""Between two samples, unless the environment says otherwise."""


class SystemMonitor:
    """Samples processor, memory, disk, network and GPU in the background.

    The samples wait until the run takes them: what talks to the server stays in one thread.

    Raises:
        InputError: without the package psutil.
    """

    def __init__(self) -> None:
        try:
            from mlflow.system_metrics.metrics import (
                cpu_monitor,
                disk_monitor,
                gpu_monitor,
                network_monitor,
            )
        except ImportError as error:
            raise InputError(
                f"system_metrics: needs a Python package that is not installed ({error}). Install "
                f"it with 'pip install psutil', or leave out --system_metrics."
            ) from error
        kinds: list[Any] = [
            cpu_monitor.CPUMonitor,
            disk_monitor.DiskMonitor,
            network_monitor.NetworkMonitor,
            gpu_monitor.GPUMonitor,
        ]
        self.monitors = []
        for kind in kinds:
            with suppress(Exception):  # what the machine lacks: a GPU, its driver, pynvml
                self.monitors.append(kind())
        self._samples: deque[Record] = deque()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, began: int) -> None:
        """Begins to sample.

        Args:
            began: start of the run, in milliseconds since 1970; a step is a sampling interval, so
                that a run that goes on continues the curves.
        """
        self._ended.clear()
        self._thread = threading.Thread(target=self._watch, args=(began,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the sampling with a last sample."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def take(self) -> list[Record]:
        """The samples since the last call."""
        return [self._samples.popleft() for _ in range(len(self._samples))]

    def _watch(self, began: int) -> None:
        pause = float(os.environ.get(INTERVAL_VARIABLE) or SECONDS)
        self._sample()  # the processor's load is counted from here
        while True:
            ended = self._ended.wait(pause)
            now = int(time.time() * 1000)
            step = int((now - began) / 1000 / pause)
            self._samples.append(
                Record("metrics", {"values": self._sample(), "step": step, "time": now})
            )
            if ended:
                return

    def _sample(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for monitor in self.monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return {f"system/{name}": float(value) for name, value in values.items()}

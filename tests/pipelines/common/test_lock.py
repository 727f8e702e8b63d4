"""One process at a time writes into a folder."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.common import FolderLock
from transforms.errors import InputError

HOLDER = """
import sys, time
from pathlib import Path
from pipelines.common import FolderLock
lock = FolderLock(Path(sys.argv[1]), "output_dir")
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes into the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_until_the_first_is_gone(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    lock = FolderLock(tmp_path, "output_dir")
    for _ in range(2):
        with pytest.raises(InputError, match=f"process {holder.pid} on .* --output_dir"):
            lock.acquire()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock.acquire()
    lock.release()


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    for name in (".partial-a.npz", "maps/.partial-b.nii.gz", "maps/whole.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".partial-mlruns-x").mkdir()
    lock = FolderLock(tmp_path, "output_dir", ["maps", "panels"])
    lock.acquire()
    found = {file.name for file in tmp_path.rglob("*")}
    assert "whole.nii.gz" in found and not any("partial" in name for name in found)
    lock.release()


def test_one_process_can_take_it_again(tmp_path: Path) -> None:
    first, second = (FolderLock(tmp_path, "output_dir") for _ in range(2))
    first.acquire()
    second.acquire()
    second.release()
    assert str(os.getpid()) in (tmp_path / ".aeflow-owner.json").read_text()
    first.release()
    assert not (tmp_path / ".aeflow-owner.json").exists()

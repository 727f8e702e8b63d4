"""One process at a time writes into a folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.common.files import PARTIAL, writable_folder, write_json
from pipelines.common.progress import duration
from transforms.errors import InputError

LOCK_NAME = ".aeflow.lock"
OWNER_NAME = ".aeflow-owner.json"


class FolderLock:
    """Keeps other processes from writing into a folder, and sweeps what a killed one left there.

    The operating system holds the lock, and drops it when the process ends, however it does: no
    lock outlives its owner. Within one process it can be taken again.

    Args:
        folder: is created if need be.
        argument: the option that names it.
        parts: subfolders that are swept as well.
    """

    def __init__(self, folder: Path, argument: str, parts: Iterable[str] = ()) -> None:
        self.folder = folder
        self.argument = argument
        self.parts = tuple(parts)
        self._lock = FileLock(folder / LOCK_NAME, is_singleton=True)

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            InputError: while another process has it, or when the folder cannot be written.
        """
        writable_folder(self.folder, self.argument)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"{self.argument}: {self._owner()} is writing into {self.folder}. Wait until it "
                f"has ended, or choose another folder with --{self.argument}."
            ) from error
        owner = {"process": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        write_json(self.folder / OWNER_NAME, owner)
        for part in ("", *self.parts):
            for orphan in (self.folder / part).glob(f"{PARTIAL}*"):
                shutil.rmtree(orphan) if orphan.is_dir() else orphan.unlink(missing_ok=True)

    def release(self) -> None:
        """Gives the lock back."""
        if self._lock.lock_counter == 1:
            (self.folder / OWNER_NAME).unlink(missing_ok=True)
        self._lock.release()

    def _owner(self) -> str:
        try:
            owner = json.loads((self.folder / OWNER_NAME).read_text())
            age = duration(time.time() - owner["since"])
            return f"process {owner['process']} on {owner['host']}, for {age} by now,"
        except (OSError, ValueError, KeyError):  # it is about to say so
            return "another process"

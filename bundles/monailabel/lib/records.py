"""What the app keeps of a study in the datastore: its score, and whether it is normal."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from lib.guard import Refusal, only_keys
from lib.images import files_below

SCORE = "aeflow"
NORMAL = "normal"
_FROM_CLIENTS = (NORMAL, "strategy", "user", "patient", "client_id", "comment")
_LOCK = ".aeflow.lock"
_LONGEST_INFO = 4096
_LONGEST_LABEL_INFO = 65_536


def label_info(info: object) -> dict[str, Any]:
    """What a client wants to record of a label: any JSON object that is not too long.

    Raises:
        Refusal: 400 for anything else.
    """
    if not isinstance(info, Mapping) or len(repr(info)) > _LONGEST_LABEL_INFO:
        raise Refusal(400, f"info: expected a JSON object of at most {_LONGEST_LABEL_INFO} bytes.")
    return dict(info)


def checked_info(info: object) -> Mapping[str, Any]:
    """What a client wants to record of a study.

    Raises:
        Refusal: 400 for keys or values that are not meant for clients.
    """
    values = only_keys("info", info, _FROM_CLIENTS)
    if not isinstance(values.get(NORMAL, False), bool):
        raise Refusal(400, f"info: {NORMAL} must be true or false.")
    if not isinstance(values.get("strategy", {}), Mapping):
        raise Refusal(400, "info: strategy must be a JSON object.")
    for name in ("user", "patient", "client_id", "comment"):
        if not isinstance(values.get(name, ""), str | None):
            raise Refusal(400, f"info: {name} must be a text.")
    if len(repr(values)) > _LONGEST_INFO:
        raise Refusal(400, f"info: more than {_LONGEST_INFO} characters.")
    return values


def stamp(path: Path) -> list[int]:
    """What changes when a study's file, or a file in its folder, does."""
    states = [one.stat() for one in (files_below(path) if path.is_dir() else [path])]
    return [max((one.st_mtime_ns for one in states), default=0), sum(one.st_size for one in states)]


class Records:
    """Mixed into a datastore of MONAI Label, which keeps its index in one JSON file.

    The server, its watcher of the folder and its background tasks all change that file. MONAI Label
    locks it for each reading and each writing alone, so that what another one wrote in between is
    lost; here a change is read, made and written under one lock.
    """

    _datastore: Any
    _datastore_path: Any
    _init_from_datastore_file: Any
    _update_datastore_file: Any
    turn = threading.RLock()
    """Of this process; also for reading the index, which a change empties and fills again."""

    @cached_property
    def _among_processes(self) -> FileLock:
        return FileLock(Path(self._datastore_path) / _LOCK, thread_local=False)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The only change that is under way; begins with what others have written."""
        with self.turn, self._among_processes:
            self._init_from_datastore_file()
            yield

    def _reconcile_datastore(self) -> None:
        """Takes over which files there are; the watcher of the folder calls it."""
        with self.turn, self._among_processes:
            super()._reconcile_datastore()  # type: ignore[misc]

    def known(self, image_id: str) -> bool:
        """Whether the datastore holds a study."""
        with self.turn:
            return image_id in self._datastore.objects

    def reread(self) -> None:
        """Takes over what another process has written."""
        with self.changing():
            pass

    def info(self, image_id: str) -> dict[str, Any]:
        """What is recorded of a study; empty for one that was never used."""
        with self.turn:
            found = self._datastore.objects.get(image_id)
            return dict(found.image.info) if found else {}

    def record(self, image_id: str, values: Mapping[str, Any]) -> None:
        """Records values of a study; without effect on one that is gone."""
        with self.changing():
            found = self._datastore.objects.get(image_id)
            if found:
                found.image.info.update(values)
                self._update_datastore_file()

    def is_normal(self, image_id: str) -> bool:
        """Whether a study was marked normal."""
        return self.info(image_id).get(NORMAL) is True

    def score(self, image_id: str) -> dict[str, Any] | None:
        """The recorded score of a study; None without a usable one."""
        found = self._scoring(image_id)
        value = found.get("score")
        usable = isinstance(value, int | float) and math.isfinite(value)
        return found if usable else None

    def failure(self, image_id: str) -> str:
        """Why a study could not be scored; empty when it could, or was not tried."""
        return str(self._scoring(image_id).get("failed", ""))

    def _scoring(self, image_id: str) -> dict[str, Any]:
        found = self.info(image_id).get(SCORE)
        return dict(found) if isinstance(found, dict) else {}

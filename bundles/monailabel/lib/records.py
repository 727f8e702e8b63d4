"""What the app keeps of a study in the datastore: its score, and whether it is normal."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.guard import Refusal, only_keys

SCORE = "aeflow"
NORMAL = "normal"
_FROM_CLIENTS = (NORMAL, "strategy", "user", "patient", "client_id", "comment")
_LONGEST_INFO = 4096


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
    """What changes when a study's file or folder does."""
    status = path.stat()
    return [status.st_mtime_ns, status.st_size]


class Records:
    """Mixed into a datastore of MONAI Label, which keeps its index in one JSON file.

    The server and its background tasks both write that file, so it is read again before each
    change.
    """

    _datastore: Any
    _init_from_datastore_file: Any
    _update_datastore_file: Any
    writing = threading.RLock()

    def known(self, image_id: str) -> bool:
        """Whether the datastore holds a study."""
        return image_id in self._datastore.objects

    def reread(self) -> None:
        """Takes over what another process has written."""
        with self.writing:
            self._init_from_datastore_file()

    def info(self, image_id: str) -> dict[str, Any]:
        """What is recorded of a study; empty for one that was never used."""
        found = self._datastore.objects.get(image_id)
        return dict(found.image.info) if found else {}

    def record(self, image_id: str, values: Mapping[str, Any]) -> None:
        """Records values of a study; without effect on one that is gone."""
        with self.writing:
            self._init_from_datastore_file()
            found = self._datastore.objects.get(image_id)
            if found:
                found.image.info.update(values)
                self._update_datastore_file()

    def is_normal(self, image_id: str) -> bool:
        """Whether a study was marked normal."""
        return self.info(image_id).get(NORMAL) is True

    def score(self, image_id: str) -> dict[str, Any] | None:
        """The recorded score of a study; None without a usable one."""
        found = self.info(image_id).get(SCORE)
        if not isinstance(found, dict):
            return None
        value = found.get("score")
        usable = isinstance(value, int | float) and math.isfinite(value)
        return dict(found) if usable else None

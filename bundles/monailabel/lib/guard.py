"""What may come in: checks of names, paths and values that a client sends.

This file knows neither MONAI Label nor the web framework.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_NEW_ID = re.compile(r"(?!.*\.\.)\w[\w .,:;=+()\[\]#&@~-]{0,127}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SESSION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UID = re.compile(r"(?!.{65})[0-9](\.?[0-9]+)*")
_CHECKSUM = re.compile(r"(?:(SHA256|SHA512|MD5):)?([0-9a-fA-F]{32,128})")


class Refusal(Exception):
    """A request that is not answered; the reason goes to the client.

    Args:
        status: the HTTP status.
        reason: what was expected and what to do, without any server path.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def shown(value: object) -> str:
    """A client's value as it may stand in an answer: short and printable."""
    return ascii(value if isinstance(value, str) else type(value).__name__)[:80]


def _plain(name: str, value: object, form: re.Pattern[str], expected: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise Refusal(400, f"{name}: expected {expected}, found {shown(value)}.")
    return str(getattr(value, "value", value))


def new_id(value: object) -> str:
    """The id of a new study: a plain name, such as Slicer gives to volumes ("2: AX T2 [b=0]").

    Raises:
        Refusal: 400 for anything that could leave the folder of the studies.
    """
    return _plain("image", value, _NEW_ID, "a plain name without slashes")


def tag(value: object) -> str:
    """The tag of a label; 400 for anything but letters, digits, _ and -."""
    return _plain("tag", value, _TAG, "letters, digits, _ and -")


def session_id(value: object) -> str:
    """The id of a session; 400 for anything but a lower-case UUID."""
    return _plain("session_id", value, _SESSION, "the id of a session")


def uid(value: object) -> str:
    """A DICOM UID; 400 for anything but digits and dots."""
    return _plain("image", value, _UID, "the UID of a DICOM series")


def checksum(value: str) -> tuple[str, str]:
    """The algorithm, SHA-256 unless it is named, and the digits of a checksum.

    Raises:
        Refusal: 400 for another form.
    """
    found = _CHECKSUM.fullmatch(value)
    if not found:
        raise Refusal(400, f"check_sum: expected e.g. SHA256:<digits>, found {shown(value)}.")
    return (found[1] or "SHA256").lower(), found[2].lower()


def inside(path: str | Path, root: str | Path) -> Path:
    """A path, links resolved, that must lie below a folder.

    Raises:
        Refusal: 400 when it does not.
    """
    real = Path(path).resolve()
    if not real.is_relative_to(Path(root).resolve()) or real == Path(root).resolve():
        raise Refusal(400, "image: expected a study inside the datastore, found a link out of it.")
    return real


def choice(name: str, value: object, choices: Iterable[str], status: int = 400) -> str:
    """One of some names.

    Raises:
        Refusal: with ``status`` and the names.
    """
    known = list(choices)
    if not isinstance(value, str) or value not in known:
        listed = ", ".join(known) or "none at present"
        raise Refusal(status, f"{name}: expected one of {listed}; found {shown(value)}.")
    return value


def json_object(name: str, content: str | bytes) -> dict[str, Any]:
    """A JSON object that came as text; empty for no text and for ``null``.

    Raises:
        Refusal: 400 for anything else.
    """
    try:
        values = json.loads(content or "{}")
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"{name}: expected a JSON object, found what is no JSON.") from error
    if not isinstance(values, dict | None):
        raise Refusal(400, f"{name}: expected a JSON object, found {shown(values)}.")
    return values or {}


def only_keys(name: str, values: object, allowed: Iterable[str]) -> Mapping[str, Any]:
    """A JSON object with known keys only.

    Raises:
        Refusal: 400 for another type or another key.
    """
    if not isinstance(values, Mapping):
        raise Refusal(400, f"{name}: expected a JSON object, found {shown(values)}.")
    known = sorted(allowed)
    for key in values:
        if key not in known:
            raise Refusal(
                400, f"{name}: {shown(key)} is not accepted here; known are {', '.join(known)}."
            )
    return values


def suffix_of(name: object, suffixes: Iterable[str]) -> str:
    """The suffix of an uploaded file's name, as we spell it.

    Raises:
        Refusal: 400 when it is none of those.
    """
    known = list(suffixes)
    for suffix in known:
        if isinstance(name, str) and name.lower().endswith(suffix):
            return suffix
    raise Refusal(400, f"file: expected a name that ends in one of {', '.join(known)}.")

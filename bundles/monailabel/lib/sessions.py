"""Sessions: images that clients upload for inference alone, and the archives they come in."""

from __future__ import annotations

import shutil
import stat
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from monailabel.utils.sessions import SessionInfo, Sessions

from lib import guard
from lib.guard import Refusal
from lib.images import IMAGE_SUFFIXES

MAX_FILES = 20_000
MAX_BYTES = 8 * 2**30
"""Most that an archive may unpack to."""

_CHUNK = 1 << 20
_LISTED = "expected a .zip, .tar or .tar.gz of one image file or one DICOM series"


class PrivateSessions(Sessions):  # type: ignore[misc]
    """Sessions whose ids cannot be paths and whose archives cannot leave their folder."""

    def get_session(
        self, session_id: str, update_ts: bool = True, fetch_cache: bool = True
    ) -> SessionInfo | None:
        """The session of an id; None for an unknown one.

        Raises:
            Refusal: 400 for what is no id.
        """
        return super().get_session(guard.session_id(session_id), update_ts, fetch_cache)

    def remove_session(self, session_id: str) -> None:
        """Removes a session and its image.

        Raises:
            Refusal: 400 for what is no id.
        """
        super().remove_session(guard.session_id(session_id))

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: Any = None
    ) -> tuple[str, SessionInfo]:
        """Adds a session with an image file or folder, or with what an archive holds.

        Raises:
            Refusal: 400 for an archive that cannot be used.
        """
        image = Path(data_file)
        if uncompress and image.is_file():
            image = unpack(image, image.parent / "series")
        added: tuple[str, SessionInfo] = super().add_session(
            str(image), expiry, False, str(uuid.uuid4())
        )
        return added


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks one image: names inside the archive are never used, only their suffixes.

    Args:
        archive: zip or tar.
        folder: to be created.

    Returns:
        The folder of a DICOM series, or the single image file in it.

    Raises:
        Refusal: 400 when a member would leave the folder, is a link, when there is more than one
            folder of files, or when it is too much.
    """
    folder.mkdir()
    try:
        total, count, places = 0, 0, set()
        for name, stream in _members(archive):
            count += 1
            places.add(PurePosixPath(name).parent)
            if count > MAX_FILES or len(places) > 1:
                raise Refusal(400, f"files: {_LISTED}, found more.")
            total = _store(stream, folder / f"{count:05d}{_suffix(name)}", total)
    except (zipfile.BadZipFile, tarfile.TarError, RuntimeError, EOFError, OSError, ValueError) as e:
        shutil.rmtree(folder, ignore_errors=True)
        raise Refusal(400, f"files: {_LISTED}; this cannot be unpacked.") from e
    except Refusal:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not count:
        raise Refusal(400, f"files: {_LISTED}, found none.")
    only = next(iter(folder.iterdir()))
    return only if count == 1 and only.suffix not in ("", ".dcm") else folder


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                _require_inside(info.filename)
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise Refusal(400, f"files: {_LISTED}, found a link.")
                if not info.is_dir() and not _hidden(info.filename):
                    with opened.open(info) as stream:
                        yield info.filename, stream
    else:
        with tarfile.open(archive) as tar:
            for member in tar:
                _require_inside(member.name)
                if not (member.isfile() or member.isdir()):
                    raise Refusal(400, f"files: {_LISTED}, found a link or a device.")
                content = None if _hidden(member.name) else tar.extractfile(member)
                if content is not None:
                    yield member.name, content


def _require_inside(name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")) or ":" in (parts[0] if parts else ""):
        raise Refusal(400, "files: the archive holds a path that leads out of it.")


def _hidden(name: str) -> bool:
    """Whether it is one of the notes that file managers leave."""
    path = PurePosixPath(name)
    return path.name.startswith(".") or "__MACOSX" in path.parts or path.name == "DICOMDIR"


def _suffix(name: str) -> str:
    lower = name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if lower.endswith(suffix)), "")


def _store(stream: IO[bytes], path: Path, total: int) -> int:
    with path.open("xb") as target:
        while chunk := stream.read(_CHUNK):
            total += len(chunk)
            if total > MAX_BYTES:
                raise Refusal(400, f"files: unpack to more than {MAX_BYTES >> 30} GiB.")
            target.write(chunk)
    return total

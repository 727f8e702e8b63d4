"""The DICOMweb store behind this server, for viewers whose pages may only ask this server.

MONAI Label's own proxy waits for the store inside the event loop, drops the query and hands on
every header. This one runs in threads and passes on what DICOMweb needs, nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

import requests
from fastapi import Response

from lib.guard import Refusal

MAX_STORED = 2**29
"""Longest body, in bytes, that is handed on to the store."""

STORE_SECONDS = (5.0, 60.0)
"""Seconds to connect to the store, and between two parts of its answer."""

OPERATIONS = ("qido", "wado", "stow")
_RESOURCE = re.compile(r"(?:studies|series|instances)(?:/[A-Za-z0-9._,-]+)*/?")
_ACCEPTED = re.compile(r"[\x20-\x7e]{0,512}")
_LONGEST_QUERY = 4096
_FOUND_BY_WADO = "metadata"


class Impatient(requests.adapters.HTTPAdapter):
    """Gives up on a store that hangs."""

    def send(self, request: requests.PreparedRequest, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        """Sends a request, with `STORE_SECONDS` unless told otherwise."""
        kwargs["timeout"] = kwargs.get("timeout") or STORE_SECONDS
        return super().send(request, *args, **kwargs)  # type: ignore[arg-type]


def impatient(session: requests.Session) -> requests.Session:
    """A session whose requests end."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, Impatient())
    return session


@dataclass(frozen=True)
class StoreProxy:
    """Hands requests on to the store.

    Attributes:
        url: of the store.
        session: with the store's credentials.
        prefixes: per operation the path of its service below ``url``; may be empty.
    """

    url: str
    session: requests.Session
    prefixes: Mapping[str, str]

    def get(self, operation: str, path: str, query: str, accept: str) -> Response:
        """Searches or retrieves.

        Args:
            operation: one of `OPERATIONS`.
            path: the resource below the service.
            query: as the client sent it.
            accept: the client's header of that name.

        Raises:
            Refusal: 400 for what is no DICOMweb resource.
        """
        if len(query) > _LONGEST_QUERY or not _ACCEPTED.fullmatch(accept):
            raise Refusal(400, "proxy: expected a shorter query and a plain Accept header.")
        # OHIF asks for metadata where it searches.
        service = "wado" if path.rstrip("/").endswith(_FOUND_BY_WADO) else operation
        url = self._url(service, path) + (f"?{query}" if query else "")
        return _answer(self.session.get(url, headers={"Accept": accept or "*/*"}))

    def post(self, operation: str, path: str, content_type: str, body: bytes) -> Response:
        """Stores instances.

        Raises:
            Refusal: 400 for what is no DICOMweb resource.
        """
        headers = {"Content-Type": content_type, "Accept": "application/dicom+json"}
        return _answer(self.session.post(self._url(operation, path), data=body, headers=headers))

    def _url(self, operation: str, path: str) -> str:
        if operation not in OPERATIONS or ".." in path or not _RESOURCE.fullmatch(path):
            raise Refusal(400, "proxy: expected a DICOMweb resource below studies or series.")
        prefix = self.prefixes.get(operation) or ""
        return "/".join(part for part in (self.url, prefix, quote(path)) if part)


def _answer(found: requests.Response) -> Response:
    kind = found.headers.get("Content-Type", "application/octet-stream")
    return Response(found.content, status_code=found.status_code, media_type=kind)

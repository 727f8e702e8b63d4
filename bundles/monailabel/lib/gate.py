"""The gate in front of MONAI Label's endpoints: what is not listed here is not answered."""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from monailabel.interfaces.exception import MONAILabelException
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib import guard
from lib.app import LabelApp
from lib.body import read_body
from lib.guard import Refusal
from transforms.errors import InputError

logger = logging.getLogger("aeflow.label")

MAX_JSON = 65_536
"""Longest JSON body, in bytes."""

_FIXED = ("/ohif", "/static", "/favicon.ico")
_HEADERS = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
Check = Callable[[LabelApp, str, dict[str, Any]], object]


@dataclass(frozen=True)
class Rule:
    """An endpoint that is open.

    Attributes:
        methods: of HTTP.
        path: expression for the whole path; a group is handed to the check.
        check: looks at the name in the path and at the JSON body.
        json: whether the body is JSON; such a body is read before the endpoint sees it.
    """

    methods: tuple[str, ...]
    path: str
    check: Check | None = None
    json: bool = False


_READ = ("GET", "HEAD")
RULES = (
    Rule(_READ, r"/|/openapi\.json|/favicon\.ico|/info/?|/logs/?|/worklist"),
    Rule(_READ, r"/(?:static|ohif)(?:/.*)?"),
    Rule(("POST",), r"/infer/([^/]+)", LabelApp.check_model),
    Rule(("GET", "DELETE"), r"/(?:batch/infer|train/|scoring/)"),
    Rule(("POST",), r"/batch/infer/([^/]+)", LabelApp.check_batch, json=True),
    Rule(("POST",), r"/train/([^/]*)", LabelApp.check_training, json=True),
    Rule(("POST",), r"/scoring/([^/]*)", LabelApp.check_scoring, json=True),
    Rule(("POST",), r"/activelearning/([^/]+)", LabelApp.check_strategy, json=True),
    Rule(("GET", "PUT"), r"/datastore/"),
    Rule(("GET", "HEAD", "PUT", "DELETE"), r"/datastore/(?:image|label)"),
    Rule(("GET", "PUT"), r"/datastore/(?:image|label)/info"),
    Rule(("PUT",), r"/session/"),
    Rule(("GET", "DELETE"), r"/session/([^/]+)"),
    Rule(("GET",), r"/model/info/([^/]+)", LabelApp.check_model),
    Rule(("GET", "POST"), r"/proxy/dicom/(?:qido|wado|stow)/(.+)", LabelApp.check_store),
)


class Gate:
    """ASGI middleware that lets through what `RULES` list, and turns refusals into answers.

    Args:
        inner: the server behind.
        app: the app.
    """

    def __init__(self, inner: ASGIApp, app: LabelApp) -> None:
        self.inner = inner
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers or passes on one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.inner(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": _guarded(scope["path"], message["headers"])}
            await send(message)

        try:
            receive = await self._admit(scope, receive)
            await self.inner(scope, receive, sending)
        except Exception as error:
            refusal = _as_refusal(error)
            if started:
                raise ConnectionAbortedError("The answer broke off.") from None
            headers = {"retry-after": "5"} if refusal.status == 503 else None
            content = {"detail": refusal.reason}
            await JSONResponse(content, refusal.status, headers)(scope, receive, sending)

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        self._require_local(scope, headers)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if any(value.lower() not in ("false", "0") for value in query.get("run_sync", ())):
            raise Refusal(400, "run_sync: not offered, since nothing else would be answered.")
        rule, name = _rule(scope["method"], scope["path"])
        body: dict[str, Any] = {}
        if rule.json:
            content = await read_body(receive, MAX_JSON)
            body = guard.json_object("body", content)
            receive = _replay(content)
        if rule.check:  # which may ask a store
            await run_in_threadpool(rule.check, self.app, name, body)
        return receive

    def _require_local(self, scope: Scope, headers: dict[str, str]) -> None:
        """Only this machine may ask, and only pages of this server or of known viewers."""
        server = scope.get("server")
        if not self.app.options.any_address and not _is_loopback(server[0] if server else ""):
            raise Refusal(
                403, "This server answers on 127.0.0.1 only; put a proxy with a log-in before it."
            )
        host = _hostname(f"//{headers.get('host', '')}")
        known = [_hostname(one) for one in self.app.options.origins]
        if not self.app.options.any_address and host not in (*_LOCAL_NAMES, *known):
            raise Refusal(403, "host: expected localhost or a host named with --conf origins.")
        origin = headers.get("origin")
        if origin is None or origin in self.app.options.origins:
            return
        if origin == "null" or urlsplit(origin).netloc != headers.get("host"):
            raise Refusal(403, "origin: pages of other sites may not use this server.")


def _guarded(path: str, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, with those that keep its content to this server and this page."""
    found = [(name.lower(), value) for name, value in headers]
    present = {name for name, _ in found}
    fixed = path.startswith(_FIXED)
    wanted = {**_HEADERS, **({} if fixed else {b"cache-control": b"no-store"})}
    return [*found, *((name, value) for name, value in wanted.items() if name not in present)]


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _rule(method: str, path: str) -> tuple[Rule, str]:
    if ".." in path or "\\" in path or not path.isprintable():
        raise Refusal(400, "path: expected a plain path.")
    other = False
    for rule in RULES:
        found = re.fullmatch(rule.path, path)
        if found and method in rule.methods:
            return rule, found.group(1) if found.re.groups else ""
        other = other or bool(found)
    if other:
        raise Refusal(405, f"{method} is not offered here.")
    raise Refusal(404, "path: not offered by this server.")


def _replay(content: bytes) -> Receive:
    messages: Iterable[Message] = iter(
        [{"type": "http.request", "body": content, "more_body": False}]
    )

    async def receive() -> Message:
        return next(iter(messages), {"type": "http.disconnect"})

    return receive


def _as_refusal(error: Exception) -> Refusal:
    """What a client gets to know of an error; the log gets its place, never its message."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, MONAILabelException):
        return Refusal(400, str(error.msg)[:200])
    if isinstance(error, InputError):  # its message may name files of this machine
        logger.error("An input was refused:\n%s", _places(error))
        return Refusal(400, "image: the study cannot be used for this; see the guide.")
    if isinstance(error, requests.RequestException):
        logger.error("The DICOMweb store failed: %s", type(error).__name__)
        return Refusal(502, "store: the DICOMweb store did not answer as expected; see its log.")
    if isinstance(error, json.JSONDecodeError):
        return Refusal(400, "expected a JSON object, found what is no JSON.")
    logger.error("Unexpected %s at\n%s", type(error).__name__, _places(error))
    return Refusal(500, f"The server failed unexpectedly ({type(error).__name__}); see its log.")


def _places(error: Exception) -> str:
    return "".join(traceback.format_tb(error.__traceback__)[-4:])

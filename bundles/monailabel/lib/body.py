"""The body of a request, up to a length."""

from __future__ import annotations

from starlette.types import Receive

from lib.guard import Refusal


async def read_body(receive: Receive, most: int) -> bytes:
    """The body of a request.

    Raises:
        Refusal: 413 when it has more than ``most`` bytes.
    """
    content = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(content)
        content += message.get("body", b"")
        if len(content) > most:
            raise Refusal(413, f"body: expected at most {most} bytes.")
        if not message.get("more_body"):
            return bytes(content)

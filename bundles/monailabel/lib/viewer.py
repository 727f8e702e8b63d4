"""OHIF as MONAI Label ships it, so that the bands can be told apart and no page asks the network.

OHIF's extension gives a label the colour of a checksum of its name, which is nearly the same for
both bands; it looks for the server at port 8000 of its host; its pages load fonts from elsewhere.
"""

from __future__ import annotations

import mimetypes
from functools import lru_cache
from pathlib import Path

import monailabel.endpoints
from fastapi import Response
from fastapi.responses import FileResponse

from lib.guard import Refusal, inside
from lib.results import COLOURS

OHIF = Path(monailabel.endpoints.__file__).parent / "static" / "ohif"

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""Content-Security-Policy: a page that shows patients' images asks this server alone."""

_COLOUR_TABLE = "const GenericAnatomyColors = [{"
_SERVER = "'http://' + window.location.host.split(':')[0] + ':8000/'"


def page(path: str) -> Response:
    """A file of the viewer; any other path is the viewer's own and gets its start page.

    Raises:
        Refusal: 404 for a path that leads out of the viewer's folder.
    """
    file = OHIF / path
    if not path or not file.is_file():
        file = OHIF / "index.html"
    try:
        inside(file, OHIF)
    except Refusal as refusal:
        raise Refusal(404, "viewer: not found.") from refusal
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    headers = {"Content-Security-Policy": POLICY}
    if file == extension():
        return Response(_adapted(file.read_text()), media_type=kind, headers=headers)
    return FileResponse(file, media_type=kind, headers=headers)


@lru_cache(maxsize=1)
def extension() -> Path | None:
    """The file of OHIF that holds MONAI Label's extension; None in a version that has none."""
    scripts = sorted(OHIF.glob("*.bundle.*.js"))
    return next((one for one in scripts if _COLOUR_TABLE in one.read_text(errors="ignore")), None)


def _adapted(script: str) -> str:
    entries = "".join(
        f"label: {name!r}, value: rgbToHex({', '.join(str(round(255 * part)) for part in colour)})"
        "}, {"
        for name, colour in COLOURS.items()
    )
    script = script.replace(_COLOUR_TABLE, _COLOUR_TABLE + entries)
    return script.replace(_SERVER, "window.location.origin + '/'")

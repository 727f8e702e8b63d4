"""The worklist: a page with every study, its score and what was said of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lib.records import NORMAL
from networks import part_column

_VIEWER = "/ohif/monai-label?StudyInstanceUIDs="
_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)


@dataclass(frozen=True)
class Entry:
    """A line of the worklist.

    Attributes:
        image: the id of the study.
        score: what `lib.scoring` recorded; empty without a usable score.
        failed: why the study has no score.
        said: ``normal``, ``labelled`` or empty.
        link: of the study in OHIF; empty without a DICOMweb store.
    """

    image: str
    score: Mapping[str, Any]
    failed: str
    said: str
    link: str

    @property
    def parts(self) -> str:
        """The parts of the score in words."""
        suffix = part_column("")
        shown = {n.removesuffix(suffix): v for n, v in self.score.items() if n.endswith(suffix)}
        return ", ".join(f"{name} {value:.1f}" for name, value in shown.items())


def entries(datastore: Any) -> list[Entry]:
    """The studies, the highest score first; those without a score last."""
    datastore.reread()
    final = set(datastore.get_labeled_images())
    found = [_entry(datastore, one, one in final) for one in datastore.list_images()]
    return sorted(found, key=lambda one: (not one.score, -one.score.get("score", 0.0), one.image))


def _entry(datastore: Any, image: str, final: bool) -> Entry:
    info = datastore.info(image)
    said = "normal" if info.get(NORMAL) is True else "labelled" if final else ""
    study = info.get("StudyInstanceUID")
    link = f"{_VIEWER}{study}" if study else ""
    return Entry(image, datastore.score(image) or {}, datastore.failure(image), said, link)


def page(datastore: Any) -> HTMLResponse:
    """The page; it asks nothing but this server."""
    nonce = secrets.token_urlsafe(16)
    listed = entries(datastore)
    html = _PAGES.get_template("worklist.html.j2").render(
        entries=listed,
        nonce=nonce,
        normal=sum(one.said == "normal" for one in listed),
        flagged=sum(one.score.get("flagged") is True for one in listed),
        waiting=sum(not one.score and not one.failed for one in listed),
    )
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})

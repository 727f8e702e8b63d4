"""The endpoints that take files, in place of MONAI Label's own.

MONAI Label's run inside its event loop, so that nothing else is answered meanwhile, name temporary
files after the client's, and leave them behind when a request fails. These run in threads, one
inference at a time, and every request has a folder that ends with it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import anyio
from fastapi import APIRouter, File, Form, Response, UploadFile
from requests_toolbelt import MultipartEncoder
from starlette.concurrency import run_in_threadpool

from lib import guard
from lib.app import LabelApp
from lib.guard import Refusal
from lib.images import IMAGE_SUFFIXES, LABEL_SUFFIXES

MAX_WAITING = 32
"""Inferences that may wait; further ones are told to come back."""

MAX_EXPIRY = 24 * 3600
"""Seconds for which a session is kept at most when nobody asks for it."""

Output = Literal["image", "json", "all", "dicom_seg"]
_RESERVED = ("image", "model", "session", "session_id", "label", "file", "bundle_path")
_MIME = {".json": "application/json", ".png": "image/png", ".dcm": "application/dicom"}
Params = Annotated[str, Form()]
OptionalFile = Annotated[UploadFile | None, File()]
T = TypeVar("T")


class Turns:
    """Lets one inference run at a time."""

    def __init__(self) -> None:
        self._one = anyio.Semaphore(1)
        self._waiting = 0

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Waits for the turn.

        Raises:
            Refusal: 503 when too many wait already.
        """
        if self._waiting > MAX_WAITING:
            raise Refusal(503, "infer: too many requests are waiting; try again in a few seconds.")
        self._waiting += 1
        try:
            async with self._one:
                yield
        finally:
            self._waiting -= 1


def infer_params(content: str) -> dict[str, Any]:
    """The parameters of an inference; where the image lies is not for them to say.

    Raises:
        Refusal: 400.
    """
    params = guard.json_object("params", content)
    for name in _RESERVED:
        if name in params:
            raise Refusal(400, f"params: {name} is not accepted there; use the query.")
    return params


def stored(
    upload: UploadFile, folder: Path, suffixes: tuple[str, ...], name: str = "upload"
) -> Path:
    """Writes an upload under a name of ours, with one of the suffixes."""
    path = folder / f"{name}{guard.suffix_of(upload.filename, suffixes)}"
    with path.open("xb") as target:
        shutil.copyfileobj(upload.file, target)
    return path


async def in_folder(work: Callable[[Path], T]) -> T:
    """Runs work in a thread, with a folder that is removed afterwards."""

    def run() -> T:
        with tempfile.TemporaryDirectory(dir=tempfile.gettempdir()) as folder:
            return work(Path(folder))

    return await run_in_threadpool(run)


def router(app: LabelApp) -> APIRouter:
    """The endpoints, bound to an app."""
    routes = APIRouter()
    turns = Turns()

    @routes.post("/infer/{model}", tags=["Infer"], summary="Score one study")
    async def infer(
        model: str,
        image: str = "",
        session_id: str = "",
        params: Params = "{}",
        file: OptionalFile = None,
        label: OptionalFile = None,
        output: Output | None = None,
    ) -> Response:
        wanted = infer_params(params)
        app.infer_task(model)
        if not (file or image or session_id):
            raise Refusal(400, "image: give the id of a study, a session_id or a file.")

        def work(folder: Path) -> Response:
            source = stored(file, folder, IMAGE_SUFFIXES) if file else app.source(image, session_id)
            study = "" if file or session_id else image
            return _answer(app, model, source, study, wanted, output or "all", folder)

        async with turns.take():
            return await in_folder(work)

    @routes.put("/session/", tags=["Session"], summary="Upload an image for inference alone")
    async def create_session(
        files: list[UploadFile], uncompress: bool = False, expiry: int = 0
    ) -> dict[str, Any]:
        return await in_folder(lambda folder: _session(app, files, uncompress, expiry, folder))

    async def add_image(
        file: UploadFile, image: str | None = None, params: Params = "{}"
    ) -> dict[str, Any]:
        info = guard.json_object("params", params)

        def work(folder: Path) -> dict[str, Any]:
            path = stored(file, folder, IMAGE_SUFFIXES)
            given = os.path.basename(file.filename or "")
            name = guard.new_id(image or given[: len(given) - len(path.name) + len("upload")])
            return {"image": app.datastore().add_image(name, str(path), info)}

        return await in_folder(work)

    for path in ("/datastore/", "/datastore/image"):
        routes.put(path, tags=["Datastore"], summary="Add a study")(add_image)

    @routes.put("/datastore/label", tags=["Datastore"], summary="Save a label of a study")
    async def save_label(
        image: str, label: UploadFile, params: Params = "{}", tag: str = "final"
    ) -> dict[str, Any]:
        info = guard.json_object("params", params)

        def work(folder: Path) -> dict[str, Any]:
            path = stored(label, folder, (*LABEL_SUFFIXES, ".bin"))
            saved = app.datastore().save_label(image, str(path), tag or "final", info)
            app.on_label(image, path, tag or "final")
            return {"image": image, "label": saved}

        return await in_folder(work)

    return routes


def _answer(
    app: LabelApp,
    model: str,
    source: Path,
    study: str,
    params: Mapping[str, Any],
    output: Output,
    folder: Path,
) -> Response:
    task = app.infer_task(model)
    if output == "dicom_seg":
        content = task.segmentation(source, folder).read_bytes()
        return Response(content, media_type=_MIME[".dcm"], headers=_named("aeflow-seg.dcm"))
    path, words = task.run(source, params, folder)
    if study and params.get("save_label") is True and words["result"] == "labels":
        label_tag = guard.tag(params.get("label_tag") or "original")
        info = {"model": model, "params": words}
        app.datastore().save_label(study, str(path), label_tag, info)
    if output == "json":
        return Response(json.dumps(words), media_type=_MIME[".json"])
    media_type = _MIME.get(path.suffix, "application/octet-stream")
    if output == "image":
        return Response(path.read_bytes(), media_type=media_type, headers=_named(path.name))
    parts = {
        "params": (None, json.dumps(words), _MIME[".json"]),
        "image": (path.name, path.read_bytes(), media_type),
    }
    message = MultipartEncoder(fields=parts)
    return Response(message.to_string(), media_type=message.content_type)


def _named(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}


def _session(
    app: LabelApp, files: list[UploadFile], uncompress: bool, expiry: int, folder: Path
) -> dict[str, Any]:
    sessions = app.sessions()
    if sessions is None:
        raise Refusal(406, "session: sessions are switched off on this server.")
    series = folder / "image"
    series.mkdir()
    if uncompress and len(files) == 1:
        image = stored(files[0], series, (".zip", ".tar.gz", ".tgz", ".tar"))
    else:
        known = (*IMAGE_SUFFIXES, "") if len(files) > 1 else IMAGE_SUFFIXES
        paths = [stored(one, series, known, f"{i:05d}") for i, one in enumerate(files)]
        image = paths[0] if len(paths) == 1 else series
    seconds = min(max(0, expiry), MAX_EXPIRY)
    name, info = sessions.add_session(str(image), seconds, uncompress)
    told = {key: value for key, value in info.to_json().items() if key not in ("path", "image")}
    return {"session_id": name, "session_info": told}

"""The endpoints that look things up: MONAI Label's own wait for them in its event loop."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse
from monailabel.endpoints import activelearning, datastore
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import processes
from starlette.concurrency import run_in_threadpool

from lib import guard, viewer, worklist, workplace
from lib.app import LabelApp
from lib.body import read_body
from lib.guard import Refusal
from lib.proxy import MAX_STORED

MAX_LINES = 5000
_TASKS = {"/train/": "train", "/scoring/": "scoring", "/batch/infer": "batch_infer"}
_SECONDS_TO_END = 20.0


def router(app: LabelApp) -> APIRouter:
    """The endpoints, bound to an app; those that are no coroutines run in threads."""
    routes = APIRouter()

    @routes.get("/info/", tags=["AppInfo"], summary="What this server offers")
    def info() -> Any:
        return app.info()

    @routes.post("/activelearning/{strategy}", tags=["ActiveLearning"], summary="The next study")
    def next_sample(strategy: str, params: dict[str, Any] | None = None) -> Any:
        return activelearning.sample(strategy, params)

    @routes.get("/logs/", tags=["Others"], summary="The end of the server's log")
    def log(lines: int = 300) -> PlainTextResponse:
        file = Path(app.app_dir) / "logs" / "app.log"
        return _last_lines(file, min(max(lines, 1), MAX_LINES))

    for path, task in _TASKS.items():
        routes.delete(path, tags=["Tasks"], summary="Stop what runs")(_stopping(task))
    _add_datastore(routes, app)
    _add_viewer(routes, app)
    return routes


def _add_datastore(routes: APIRouter, app: LabelApp) -> None:
    def get(path: str, summary: str) -> Callable[[Callable[..., Any]], Any]:
        return routes.get(f"/datastore/{path}", tags=["Datastore"], summary=summary)

    get("", "The studies, or their number")(datastore.datastore)
    get("image/info", "What is known of a study")(datastore.get_image_info)
    get("label/info", "What is known of a label")(datastore.get_label_info)

    @get("image", "A study as one file")
    def image(image: str) -> Any:
        return datastore.download_image(image)

    @routes.head("/datastore/image", tags=["Datastore"], summary="Whether a study is there")
    def has_image(image: str, check_sum: str | None = None) -> Any:
        wanted = check_sum and guard.checksum(check_sum)
        path = Path(app.datastore().get_image_uri(image))
        if wanted and _digest(path, wanted[0]) != wanted[1]:
            raise Refusal(404, "image: the study has another checksum.")
        return {}

    @get("label", "A label as one file")
    def label(label: str, tag: str) -> Any:
        return datastore.download_label(label, tag)


def _add_viewer(routes: APIRouter, app: LabelApp) -> None:
    @routes.get("/", include_in_schema=False)
    def start() -> RedirectResponse:
        return RedirectResponse("worklist")

    @routes.get("/worklist", tags=["Viewer"], summary="The studies by their score, as a page")
    def page() -> Response:
        return worklist.page(app.datastore())

    @routes.get("/ohif/{path:path}", include_in_schema=False)
    def ohif(path: str) -> Response:
        return viewer.page(path)

    @routes.get("/proxy/dicom/{operation}/{path:path}", include_in_schema=False)
    def retrieve(operation: str, path: str, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        found: Response = app.datastore().proxy.get(operation, path, request.url.query, accept)
        return found

    @routes.post("/proxy/dicom/{operation}/{path:path}", include_in_schema=False)
    async def store(operation: str, path: str, request: Request) -> Response:
        proxy, kind = app.datastore().proxy, request.headers.get("content-type", "")
        body = await read_body(request.receive, MAX_STORED)
        return await run_in_threadpool(proxy.post, operation, path, kind, body)


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _last_lines(file: Path, count: int) -> PlainTextResponse:
    """As plain text: MONAI Label's page of the log runs scripts from elsewhere."""
    try:
        with file.open(errors="replace") as stream:
            return PlainTextResponse("".join(deque(stream, count)))
    except OSError as error:
        raise Refusal(404, "logs: there is no log yet.") from error


def _stopping(task: str) -> Callable[[], Any]:
    """An endpoint that ends a background task and removes what it leaves behind."""

    def stop() -> Any:
        running = list(processes(task).values())
        stopped = AsyncTask.stop(task)
        for process in running:
            process.wait(_SECONDS_TO_END)
        workplace.sweep()
        return stopped

    return stop

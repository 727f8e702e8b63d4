"""AE-Flow as a MONAI Label app.

Started with ``python -m monailabel.main start_server --app bundles/monailabel --studies <folder>
--conf models aeflow``; ``docs/monailabel.md`` is its guide.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if find_spec("pipelines") is None:  # started from a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lib import app, endpoints, pages, workplace
from lib.gate import Gate
from monailabel.interfaces.app import MONAILabelApp
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware


class AEFlowApp(app.LabelApp, MONAILabelApp):  # type: ignore[misc]
    """The app behind its gate; MONAI Label looks here for a class that names its own as a base.

    Args:
        app_dir: this folder.
        studies: folder of the studies, or URL of a DICOMweb store.
        conf: names and values of ``--conf``; see `lib.options.Options`.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        super().__init__(app_dir, studies, conf)
        if workplace.serving():
            self._close_server(sys.modules["monailabel.app"].app)

    def _close_server(self, server: Any) -> None:
        """Puts the gate before MONAI Label's endpoints and ours in the place of some of them."""
        mine = [*endpoints.router(self).routes, *pages.router(self).routes]
        server.router.routes[:0] = mine
        server.user_middleware = [Middleware(Gate, app=self)]
        if self.options.origins:
            origins = list(self.options.origins)
            every = ["*"]
            cors = Middleware(
                CORSMiddleware, allow_origins=origins, allow_methods=every, allow_headers=every
            )
            server.user_middleware.insert(0, cors)
        server.middleware_stack = None  # built anew, with these, at the next request

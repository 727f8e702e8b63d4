"""A new SQLite database for MLflow, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from pipelines.common import PARTIAL

PREFIX = "sqlite:///"


def make_database(uri: str, experiment: str) -> None:
    """Makes the file of a SQLite URI with all tables, where there is none.

    MLflow takes seconds for it, and refuses what a process has left that was killed meanwhile.

    Args:
        uri: of the tracking; others than SQLite's are left alone.
        experiment: is there from the start, so that runs that begin together do not all make it.
    """
    name = uri.removeprefix(PREFIX)
    path = Path(name)
    if not uri.startswith(PREFIX) or set(":?") & set(name) or path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{PARTIAL}{path.stem}-") as folder:
        made = Path(folder) / path.name
        artifacts = (path.parent / "mlruns").resolve().as_uri()
        store: Any = SqlAlchemyStore(f"{PREFIX}{made}", artifacts)  # type: ignore[no-untyped-call]
        store.create_experiment(experiment)
        store.engine.dispose()
        try:
            os.link(made, path)  # unlike a renaming, it spares what another run has just made
        except FileExistsError:
            return
        except OSError:  # a file system without links
            os.replace(made, path)

"""Where a run is tracked: the address that was asked for, checked, and told without its secrets."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from transforms.errors import InputError

URI_VARIABLE = "MLFLOW_TRACKING_URI"
DATABASE = "mlflow.db"
"""The database of the working folder; ``mlflow ui`` looks for one of this name there."""

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
"""What MLflow tracks to by itself; plugins add to these."""


def resolve_uri(tracking_uri: str | None, output_dir: Path) -> str | None:
    """Decides where a run is tracked.

    Args:
        tracking_uri: what the user asked for; ``none`` turns tracking off, None or the empty
            string leaves the choice to the environment and then to `DATABASE` in the working
            folder, which all runs share that are started there.
        output_dir: the run's folder, home of its database where the working folder is read-only.

    Returns:
        A URI, or None when tracking is off. The user's choice beats the environment.

    Raises:
        InputError: for a plain path, which MLflow no longer accepts, and for what is no URI.
    """
    wanted = (tracking_uri or os.environ.get(URI_VARIABLE) or "").strip()
    if not wanted:
        return f"sqlite:///{_shared_folder(output_dir).resolve() / DATABASE}"
    if wanted.lower() == "none":
        return None
    fault = _fault(wanted)
    if fault:
        raise InputError(
            f"tracking_uri: expected a database or a server, such as sqlite:///runs.db or "
            f"http://localhost:5000, or 'none'; found {masked(wanted)!r}. {fault}"
        )
    return wanted


def _shared_folder(output_dir: Path) -> Path:
    here = Path.cwd()
    needed = (here, *here.glob(DATABASE))
    return here if all(os.access(one, os.W_OK) for one in needed) else output_dir


def _fault(uri: str) -> str:
    """What is wrong with a URI; nothing when it is empty."""
    if "://" not in uri or uri.startswith("file:"):
        host = uri.partition("/")[0]
        meant = f" Or did you mean http://{uri}?" if ":" in host and "file" not in host else ""
        return f"MLflow no longer writes to plain folders.{meant}"
    scheme = uri.partition("://")[0].lower().partition("+")[0]
    plugins = {plugin.name for plugin in entry_points(group="mlflow.tracking_store")}
    if scheme not in {*SCHEMES, *plugins}:
        return f"MLflow knows no {uri.partition('://')[0]!r}."
    if scheme == "sqlite":
        return "" if uri.startswith("sqlite:///") else "A database file takes three slashes."
    if scheme in ("http", "https"):
        return _address_fault(uri)
    return ""


def _address_fault(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        if parts.port is not None and parts.port < 1:
            raise ValueError("the port is a number from 1 to 65535")
    except ValueError as error:
        return f"{error}."
    return "" if parts.hostname and " " not in uri else "The name of the server is missing."


def masked(uri: str) -> str:
    """A URI without its password."""
    start, separator, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    name, colon, _ = user.partition(":")
    secret = f"{name}{colon}{'***' if colon else ''}"
    return f"{start}{separator}{secret}{at}{host}{slash}{path}" if at else uri

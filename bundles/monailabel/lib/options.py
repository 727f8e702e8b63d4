"""What the operator sets with ``--conf name value``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from networks.choices import nearest
from networks.levels import HIGHEST_PERCENTILE
from pipelines.scoring import VERY_SUSPICIOUS_PERCENTILE
from transforms.errors import InputError

MODEL = "aeflow"


@dataclass(frozen=True)
class Options:
    """Options of the app.

    Attributes:
        models: the models to serve; only ``aeflow`` exists.
        bundle: folder of the bundle whose train.json retrains.
        ckpt_dir: folder of the served ``model.pt``; a retrained model replaces it.
        device: where inference computes.
        batch_size: slices that go through the network at once.
        very_suspicious: percentile of held-out normal pixels at which the second band begins.
        origins: other web origins whose pages may use this server, e.g. of a viewer.
        any_address: whether requests that reach the machine by its network address are answered.
        auto_score: whether studies are scored by themselves, at start and after each *Next Sample*;
            None does so for a folder, and not for a store, whose series would all be fetched.
        train: options of train.json that every training gets.
    """

    bundle: Path
    ckpt_dir: Path
    models: tuple[str, ...] = (MODEL,)
    device: str = "cpu"
    batch_size: int = 32
    very_suspicious: float = VERY_SUSPICIOUS_PERCENTILE
    origins: tuple[str, ...] = ()
    any_address: bool = False
    auto_score: bool | None = None
    train: Mapping[str, Any] = field(default_factory=dict)


def read_options(app_dir: Path, conf: Mapping[str, str]) -> Options:
    """Reads ``--conf``.

    Args:
        app_dir: folder of the app.
        conf: names and values as MONAI Label passes them.

    Raises:
        InputError: for an unknown name or a value that cannot be used.
    """
    known = [one.name for one in fields(Options)]
    for name in conf:
        if name not in known:
            raise InputError(f"--conf {name}: there is no such option. {nearest(name, known)}")
    bundle = Path(conf.get("bundle") or app_dir.parent / "aeflow").resolve()
    if not (bundle / "train.json").is_file():
        raise InputError(f"--conf bundle: expected a folder that holds train.json, found {bundle}.")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    return Options(
        bundle=bundle,
        ckpt_dir=Path(conf.get("ckpt_dir") or bundle / "models").resolve(),
        models=_models(conf.get("models") or MODEL),
        device=conf.get("device") or default,
        batch_size=int(_number(conf, "batch_size", 32, 1)),
        very_suspicious=_number(
            conf, "very_suspicious", VERY_SUSPICIOUS_PERCENTILE, 0, HIGHEST_PERCENTILE
        ),
        origins=_origins(conf.get("origins") or ""),
        any_address=_flag(conf, "any_address"),
        auto_score=_flag(conf, "auto_score") if "auto_score" in conf else None,
        train=_train(conf.get("train") or "{}"),
    )


def _models(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if set(names) != {MODEL}:
        raise InputError(f"--conf models: expected {MODEL}, found {value!r}.")
    return names


def _number(
    conf: Mapping[str, str], name: str, default: float, least: float, most: float = math.inf
) -> float:
    try:
        value = float(conf.get(name, default))
    except ValueError:
        value = math.nan
    if not least <= value <= most or math.isinf(value):
        upto = "" if math.isinf(most) else f" to {most:g}"
        raise InputError(
            f"--conf {name}: expected a number from {least:g}{upto}, found {conf[name]!r}."
        )
    return value


def _flag(conf: Mapping[str, str], name: str) -> bool:
    value = str(conf.get(name, "false")).lower()
    if value not in ("true", "false"):
        raise InputError(f"--conf {name}: expected true or false, found {value!r}.")
    return value == "true"


def _origins(value: str) -> tuple[str, ...]:
    origins = tuple(one.strip().rstrip("/") for one in value.split(",") if one.strip())
    for one in origins:
        scheme, _, host = one.partition("://")
        if scheme not in ("http", "https") or not host or "/" in host or "*" in host:
            raise InputError(
                f"--conf origins: expected e.g. https://viewer.example, found {one!r}."
            )
    return origins


def _train(value: str) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except json.JSONDecodeError as error:
        raise InputError(f"--conf train: expected a JSON object ({error}).") from error
    if not isinstance(found, dict):
        raise InputError(f"--conf train: expected a JSON object, found {value!r}.")
    return found

"""The model file: a scorer's state dict and the plain facts that rebuild it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from networks import DETECTORS, AnomalyScorer, make_fusion
from networks.choices import nearest
from pipelines.common import replacing
from transforms.errors import InputError

FORMAT = 3
MODEL_NAME = "model.pt"


def save_model(path: Path, scorer: AnomalyScorer, facts: Mapping[str, Any]) -> None:
    """Writes a calibrated scorer, atomically.

    Args:
        path: the file, usually ``models/model.pt``.
        scorer: the calibrated scorer.
        facts: plain values beside the weights: preprocessing, modalities, split, versions.

    Raises:
        ValueError: when the scorer has not been calibrated, or the file could not be loaded again.
    """
    if not scorer.calibrated:
        raise ValueError("scorer: expected a calibrated scorer; calibrate it before saving.")
    state = {name: value.detach().cpu() for name, value in scorer.state_dict().items()}
    content = {
        "model": state,
        "format": FORMAT,
        "detector": scorer.detector.name,
        "config": dict(scorer.detector.config),
        "fusion": dict(scorer.fusion.config),
        **facts,
    }
    try:
        with torch.random.fork_rng(devices=[]):
            load_scorer(content)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"scorer: expected a detector that its config rebuilds, found {scorer.detector.name!r} "
            f"with {scorer.detector.config}. Build it by name (`make_detector`), or record in its "
            "config what it was assembled from."
        ) from error
    with replacing(path) as temporary:
        torch.save(content, temporary)


def read_model(path: str | Path) -> dict[str, Any]:
    """Reads a model file's content; nothing in it is executed.

    Raises:
        InputError: when the file is missing, is no model file or is of another format.
    """
    path = Path(path)
    if path.is_dir():
        path = path / MODEL_NAME
    if not path.is_file():
        raise InputError(
            f"ckpt_dir: there is no model file {path}. Train one first (python -m monai.bundle run "
            f"training --config_file bundles/aeflow/train.json), or point --ckpt_dir at the "
            f"folder that holds {MODEL_NAME}."
        )
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file makes the unpickler fail in any way
        raise InputError(
            f"ckpt_dir: {path} is damaged or no PyTorch file of plain values "
            f"({type(error).__name__}). Expected a {MODEL_NAME} that AE-Flow's training wrote."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"ckpt_dir: {path} is not an AE-Flow model of format {FORMAT} (found {found!r}). "
            f"Train it again with this version."
        )
    return content


def model_version(model: Mapping[str, Any]) -> str:
    """Tells a model from every other: when it was created, and the fingerprint of its data.

    Example:
        >>> model_version({"created": "2026-01-01T00:00:00+0000", "fingerprint": "0123abcd"})
        '2026-01-01T00:00:00+0000 0123abcd'
    """
    return f"{model['created']} {model['fingerprint']}"


def load_scorer(model: Mapping[str, Any], device: torch.device | str = "cpu") -> AnomalyScorer:
    """Rebuilds the calibrated scorer of a model file.

    Args:
        model: the content of the file, see `read_model`.
        device: where the scorer is wanted.

    Returns:
        The scorer, in evaluation mode.

    Raises:
        InputError: for a detector that is not known here.
    """
    name, known = str(model["detector"]), list(DETECTORS)
    if name not in known:
        raise InputError(
            f"ckpt_dir: the model's detector {name!r} is not known here. {nearest(name, known)}"
        )
    detector = DETECTORS[name](**model["config"])
    scorer = AnomalyScorer(detector, make_fusion(**model["fusion"]))
    scorer.load_state_dict(model["model"])
    return scorer.eval().to(device)

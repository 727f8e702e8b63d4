"""The model file: a scorer's state dict and the plain facts that rebuild it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from networks import DETECTORS, AnomalyScorer, make_fusion
from networks.choices import nearest
from networks.errors import summary
from pipelines.common import read_archive, replacing
from pipelines.scoring.model_content import content_problem, lacking, state_problem
from pipelines.scoring.patches import make_scorer
from transforms.errors import InputError

FORMAT = 4
MODEL_NAME = "model.pt"

OF_THE_SCORER = ("model", "format", "detector", "config", "fusion", "amp")
"""What a model file says of the scorer itself; all else are facts."""


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
        "amp": scorer.amp,
        **facts,
    }
    problem = content_problem(content)
    if problem:
        raise ValueError(f"facts: expected what `ModelContent` lists, found {problem}.")
    try:
        with torch.random.fork_rng(devices=[]):
            _rebuilt(content)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"scorer: expected a detector that its config rebuilds, found {scorer.detector.name!r} "
            f"with {scorer.detector.config}. Build it by name (`make_detector`), or record in its "
            "config what it was assembled from."
        ) from error
    with replacing(path) as temporary:
        torch.save(content, temporary)


def read_model(path: str | Path, complete: bool = True) -> dict[str, Any]:
    """Reads and checks a model file's content; nothing in it is executed.

    Args:
        path: the file, or its folder.
        complete: whether what an evaluation needs must be there too; a registered model lacks it.

    Raises:
        InputError: when the file is missing or damaged, is no model file, or is of another format.
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
    content, problem = read_archive(path)
    if problem:
        raise InputError(
            f"ckpt_dir: {path} is damaged or no PyTorch file of plain values ({problem}). "
            f"Expected a {MODEL_NAME} that AE-Flow's training wrote; copy it again."
        )
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"ckpt_dir: {path} is not an AE-Flow model of format {FORMAT} (found {found!r}). "
            f"Train it again with this version."
        )
    problem = content_problem(content, complete)
    if problem:
        raise InputError(
            f"ckpt_dir: {path} is no AE-Flow model that can be used ({problem}). Expected a "
            f"{MODEL_NAME} as AE-Flow's training wrote it; copy it again, or train anew."
        )
    return dict(content)


def model_version(model: Mapping[str, Any]) -> str:
    """Tells a model from every other: when it was created, and the fingerprint of its data.

    Example:
        >>> model_version({"created": "2026-01-01T00:00:00+0000", "fingerprint": "0123abcd"})
        '2026-01-01T00:00:00+0000 0123abcd'
    """
    return f"{model['created']} {model['fingerprint']}"


def load_scorer(
    model: Mapping[str, Any],
    device: torch.device | str = "cpu",
    target_fpr: float | None = None,
) -> AnomalyScorer:
    """Rebuilds the calibrated scorer of a model file.

    Args:
        model: the content of the file, see `read_model`.
        device: where the scorer is wanted.
        target_fpr: the false-positive rate of the threshold; None for the model's own.

    Returns:
        The scorer, in evaluation mode.

    Raises:
        InputError: for a detector that is not known here, or weights that do not fit it.
    """
    name, known = str(model["detector"]), list(DETECTORS)
    if name not in known:
        raise InputError(
            f"ckpt_dir: the model's detector {name!r} is not known here. {nearest(name, known)}"
        )
    try:
        scorer = _rebuilt(model)
    except Exception as error:  # a foreign config makes the networks fail in any way
        raise InputError(
            f"ckpt_dir: the model cannot be rebuilt from its config ({summary(error)}). Expected "
            f"a {MODEL_NAME} as AE-Flow's training wrote it; copy it again, or train anew."
        ) from error
    if target_fpr is not None and target_fpr != float(model["target_fpr"]):
        scorer.calibration.retarget(target_fpr)
    return scorer.eval().to(device)


def _rebuilt(model: Mapping[str, Any]) -> AnomalyScorer:
    detector = DETECTORS[model["detector"]](**model["config"])
    seen = {n: v for n, v in model["preprocessing"].items() if n in ("patch_size", "overlap")}
    fusion = make_fusion(**model["fusion"])
    scorer = make_scorer(detector, fusion, model.get("amp", True), **seen)
    problem = (
        lacking("config", detector.config, model["config"])
        or lacking("fusion", scorer.fusion.config, model["fusion"])
        or state_problem(scorer.state_dict(), model["model"])
    )
    if problem:
        raise ValueError(problem)
    scorer.load_state_dict(model["model"])
    if not scorer.calibrated:
        raise ValueError("it was never calibrated")
    return scorer

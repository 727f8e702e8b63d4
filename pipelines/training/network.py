"""Builds a detector from options, with local encoder weights if they are given."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from networks import DETECTORS, Detector
from networks.choices import nearest
from networks.spatial import KINDS, check_spatial_dims
from pipelines.common import derive_seed
from transforms.errors import InputError


def make_detector(
    detector: str,
    encoder_weights: str | None = None,
    encoder_sha256: str | None = None,
    ensemble: int = 1,
    seed: int = 0,
    spatial_dims: int = 2,
    **config: Any,
) -> Detector:
    """Builds a detector; its initial weights are a function of the seed alone.

    Args:
        detector: name of the method, see `networks.DETECTORS`.
        encoder_weights: file of a torchvision state dict for its encoder; nothing is downloaded.
        encoder_sha256: the file's expected SHA-256, in hexadecimal.
        ensemble: number of such detectors that are trained as one.
        seed: the run's seed.
        spatial_dims: axes of what it sees: 1 of signals, 2 of images, 3 of patches of volumes.
        config: the arguments of the method.

    Raises:
        InputError: for an unknown method or one for other images, when the weights are missing,
            altered or of another network, or for a checksum without weights.
        ValueError: for an unknown part or a number out of range.
    """
    if detector not in DETECTORS:
        known = list(DETECTORS)
        raise InputError(
            f"detector: expected one of {', '.join(known)}, found {detector!r}. "
            f"{nearest(detector, known)}"
        )
    kind = KINDS[check_spatial_dims(spatial_dims)]
    if spatial_dims not in DETECTORS[detector].dims:
        fit = ", ".join(name for name, one in DETECTORS.items() if spatial_dims in one.dims)
        raise InputError(f"detector: expected one for {kind} ({fit}), found {detector!r}.")
    if spatial_dims != 2:  # a method for images alone has no such argument
        config["spatial_dims"] = spatial_dims
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(seed, "weights"))
        if ensemble > 1:
            built = DETECTORS["ensemble"](member=detector, ensemble=ensemble, **config)
        else:
            built = DETECTORS[detector](**config)
    if encoder_sha256 and not encoder_weights:
        raise InputError(
            "encoder_sha256: expected the weights that it belongs to, found none. Name their file "
            "with --encoder_weights, or leave the checksum out."
        )
    if encoder_weights:
        state = read_encoder_weights(Path(encoder_weights), encoder_sha256)
        try:
            built.load_encoder(state)
        except ValueError as error:
            raise InputError(
                f"encoder_weights: {encoder_weights} does not fit --encoder "
                f"{config.get('encoder')}. {error}"
            ) from error
    return built


def pretraining_wanted(epochs: int, minutes: float, encoder_weights: str | None) -> bool:
    """Whether there is a pre-training: asked for, and no weights given in its place."""
    return (epochs > 0 or minutes > 0) and not encoder_weights


def read_encoder_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Reads a state dict from a local file; nothing in it is executed.

    Args:
        path: the file.
        sha256: its expected SHA-256 in hexadecimal; None trusts the file.

    Raises:
        InputError: when the file is missing, altered or holds no state dict.
    """
    if not path.is_file():
        raise InputError(
            f"encoder_weights: there is no file {path}. Give the path of a torchvision state dict "
            f"(for example wide_resnet50_2's), or leave the option out to pre-train on the normal "
            f"images."
        )
    if sha256 is not None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256.lower():
            raise InputError(
                f"encoder_sha256: {path} has SHA-256 {found}, expected {sha256}. The file is "
                f"another one or damaged; fetch it again or correct the option."
            )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file makes the unpickler fail in any way
        raise InputError(
            f"encoder_weights: {path} is no PyTorch file of plain tensors ({type(error).__name__})."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"encoder_weights: expected a state dict in {path}, found something else.")
    return state

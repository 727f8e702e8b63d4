"""What a model file holds: its schema, and the checks that every content passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from networks.errors import summary
from pipelines.common import check_values
from pipelines.data import loader_of

Finite = Annotated[float, Field(allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Names = Annotated[list[str], Field(min_length=1)]


class ScoringContent(BaseModel):
    """What scoring needs of a model file; a registered model holds no more."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True, extra="allow")

    model: Annotated[dict[str, Tensor], Field(min_length=1)]
    detector: str
    config: dict[str, Any]
    fusion: dict[str, Any]
    amp: bool = True
    preprocessing: dict[str, Any]
    modalities: Names
    volumetric: bool
    case_scores: list[Finite]
    case_weights: list[Finite]
    target_fpr: Rate
    scope: Annotated[dict[str, Tensor], Field(min_length=1)]
    versions: dict[str, str]
    created: str


class ModelContent(ScoringContent):
    """What a training writes: also what the model has seen, for its evaluation."""

    split: dict[str, list[str]]
    seen: list[str]
    notes: list[str]
    layout: str
    fingerprint: str


def content_problem(content: Mapping[str, Any], complete: bool = True) -> str:
    """Why a model file's content cannot be used; "" if it can.

    Args:
        content: all of it.
        complete: whether what an evaluation needs must be there too.
    """
    try:
        (ModelContent if complete else ScoringContent).model_validate(dict(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}"
    try:
        check_values(content["preprocessing"])
        loader = loader_of(content["preprocessing"])
    except Exception as error:  # its values are as foreign as the file may be
        return f"preprocessing: {summary(error)}"
    missing = lacking("preprocessing", loader.parameters, content["preprocessing"])
    return missing or next(
        filter(
            None,
            (
                _tensor_problem(f"{part}.{name}", value)
                for part in ("model", "scope")
                for name, value in content[part].items()
            ),
        ),
        "",
    )


def lacking(place: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What settings lack, for which a default would stand in unseen; "" if nothing."""
    names = sorted(expected.keys() - found.keys())
    return f"{place}: {', '.join(names)} missing" if names else ""


def state_problem(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """How a state dict differs from the one that a network expects; "" if it fits."""
    for told, names in (
        ("missing", expected.keys() - found.keys()),
        ("of no use", found.keys() - expected.keys()),
    ):
        if names:
            return f"{len(names)} of its tensors are {told}, such as {min(names)}"
    for name, wanted in expected.items():
        tensor = found[name]
        if tensor.shape != wanted.shape:
            return (
                f"{name} has the shape {tuple(tensor.shape)}, not the expected shape "
                f"{tuple(wanted.shape)}"
            )
        if tensor.dtype != wanted.dtype:
            return f"{name} is of type {tensor.dtype}, not {wanted.dtype}"
    return ""


def _tensor_problem(name: str, tensor: Tensor) -> str:
    if tensor.layout != torch.strided or tensor.is_quantized:
        return f"{name}: expected a plain tensor, found {tensor.layout}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"{name}: expected {tensor.numel()} values, found fewer that are repeated"
    if not bool(torch.isfinite(tensor).all()):
        return f"{name}: some values are not finite"
    return ""

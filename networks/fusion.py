"""How the parts of a detector become one score and one map."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .choices import choose
from .detectors.contract import Part
from .errors import ArgumentError

logger = logging.getLogger(__name__)

MARGIN = 8.0
"""Standard deviations by which a part may exceed the weighted mean of all."""


class Fusion(Protocol):
    """Combines evidence; weighs score and map separately.

    Attributes:
        config: plain values; ``make_fusion(**config)`` gives the same fusion.
    """

    @property
    def config(self) -> dict[str, Any]:
        """See the class."""
        ...

    def attach(self, parts: Sequence[Part]) -> None:
        """Learns the parts of a detector; refuses those that it cannot combine."""

    def score(self, values: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> Tensor:
        """One score ``(B,)``, before its standardisation.

        Args:
            values: the detector's raw values, ``(B,)`` each.
            parts: its standardised parts, ``(B,)`` each.
        """
        ...

    def map(self, maps: Mapping[str, Tensor]) -> Tensor:
        """One map ``(B, 1, *s)`` of the parts' standardised maps."""
        ...


class WeightedFusion:
    """Weighted means of the standardised parts and of their maps.

    A weight of a part that the detector lacks goes to the others; a part without one counts 0. No
    part hides another: the score is at least the largest part, with or without a weight, less a
    margin.

    Args:
        weights: of the parts in the score; they need not sum to 1; None takes the parts' own.
        map_weights: likewise in the map.
        margin: in standard deviations; the smaller, the more a single part decides.

    Raises:
        ArgumentError: for weights below 0 or without any above it.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None,
        map_weights: Mapping[str, float] | None,
        margin: float = MARGIN,
    ) -> None:
        if not margin >= 0.0:
            raise ArgumentError(f"margin: expected a number from 0 on, got {margin}.")
        self.margin = float(margin)
        self.given = _checked("weights", weights), _checked("map_weights", map_weights)
        self.weights, self.map_weights = (one or {} for one in self.given)

    @property
    def config(self) -> dict[str, Any]:
        """See `Fusion`."""
        weights = {"weights": self.weights, "map_weights": self.map_weights}
        return {"score": "fused", **weights, "margin": self.margin}

    def attach(self, parts: Sequence[Part]) -> None:
        """See `Fusion`.

        Raises:
            ArgumentError: when no weight above 0 belongs to any of the parts.
        """
        own = {part.name: part.weight for part in parts}
        on_map = {part.name: part.map_weight for part in parts if part.maps}
        weights, map_weights = self.given
        self.weights = _present("weights", own if weights is None else weights, own)
        given = on_map if map_weights is None else map_weights
        self.map_weights = _present("map_weights", given, on_map)

    def score(self, values: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> Tensor:
        """See `Fusion`."""
        largest = torch.stack(list(parts.values())).amax(dim=0) - self.margin
        return torch.maximum(_weighted(self.weights, parts), largest)

    def map(self, maps: Mapping[str, Tensor]) -> Tensor:
        """See `Fusion`."""
        return _weighted(self.map_weights, maps)


class PaperFusion(WeightedFusion):
    """S = beta S_flow + (1 - beta) S_recon of AE-FLOW (Zhao et al., ICLR 2023, section 3.5).

    S_flow is taken in logs and per dimension; the map is weighted as in `WeightedFusion`.

    Args:
        beta: weight of the flow, in [0, 1].
        map_weights: of the parts in the map.
    """

    PARTS = ("flow", "recon")
    VALUES = ("latent", "recon")

    def __init__(self, beta: float, map_weights: Mapping[str, float] | None) -> None:
        if not 0.0 <= beta <= 1.0:
            raise ArgumentError(f"beta: expected a weight in [0, 1], got {beta}.")
        super().__init__(None, map_weights)
        self.beta = float(beta)

    @property
    def config(self) -> dict[str, Any]:
        """See `Fusion`."""
        return {"score": "paper", "beta": self.beta, "map_weights": self.map_weights}

    def attach(self, parts: Sequence[Part]) -> None:
        """See `Fusion`.

        Raises:
            ArgumentError: for a detector without likelihood and reconstruction.
        """
        names = [part.name for part in parts]
        if not set(self.PARTS) <= set(names):
            raise ArgumentError(
                f"score: 'paper' combines {' and '.join(self.PARTS)}, but this detector has the "
                f"parts {', '.join(names)}; take 'fused' or one of them."
            )
        super().attach(parts)

    def score(self, values: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> Tensor:
        """See `Fusion`."""
        flow, recon = (values[name] for name in self.VALUES)
        return self.beta * flow + (1 - self.beta) * recon


class PartFusion(WeightedFusion):
    """One part alone is the score; the map is weighted as in `WeightedFusion`.

    Args:
        part: its name.
        map_weights: of the parts in the map.
    """

    def __init__(self, part: str, map_weights: Mapping[str, float] | None) -> None:
        super().__init__({part: 1.0}, map_weights)
        self.part = part

    @property
    def config(self) -> dict[str, Any]:
        """See `Fusion`."""
        return {"score": self.part, "map_weights": self.map_weights}

    def attach(self, parts: Sequence[Part]) -> None:
        """See `Fusion`.

        Raises:
            ArgumentError: for a part that the detector lacks.
        """
        choose("score", self.part, dict.fromkeys(("fused", "paper", *(p.name for p in parts))))
        super().attach(parts)

    def score(self, values: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> Tensor:
        """See `Fusion`."""
        return parts[self.part]


def make_fusion(
    score: str = "fused",
    weights: Mapping[str, float] | None = None,
    map_weights: Mapping[str, float] | None = None,
    beta: float = 0.9,
    margin: float = MARGIN,
) -> WeightedFusion:
    """A fusion by name.

    Args:
        score: ``fused``, ``paper`` or the name of a part, which alone is then the score.
        weights: of the parts in the fused score; None takes the parts' own.
        map_weights: likewise in the map.
        beta: of the paper's score.
        margin: of the fused score, see `WeightedFusion`.

    Raises:
        ArgumentError: for numbers out of range.
    """
    if score == "paper":
        return PaperFusion(beta, map_weights)
    if score == "fused":
        return WeightedFusion(weights, map_weights, margin)
    return PartFusion(score, map_weights)


def _checked(argument: str, weights: Mapping[str, float] | None) -> dict[str, float] | None:
    if weights is None:
        return None
    for name, weight in weights.items():
        if not weight >= 0.0:
            raise ArgumentError(f"{argument}: expected numbers from 0 on, got {name}: {weight}.")
    return {name: float(weight) for name, weight in weights.items()}


def _present(argument: str, weights: Mapping[str, float], known: Iterable[str]) -> dict[str, float]:
    known = tuple(known)
    if not any(weights.get(name) for name in known):
        raise ArgumentError(
            f"{argument}: expected a weight above 0 for one of {', '.join(known)}, got {weights}; "
            "name the parts of this detector."
        )
    for name in weights:
        if name not in known:
            logger.debug("%s: no part %r here; its weight goes to the others.", argument, name)
    return {name: weight for name, weight in weights.items() if name in known}


def _weighted(weights: Mapping[str, float], found: Mapping[str, Tensor]) -> Tensor:
    used = {name: weight for name, weight in weights.items() if weight and name in found}
    total = sum(used.values())
    terms = [found[name] * (weight / total) for name, weight in used.items()]
    return sum(terms[1:], start=terms[0])

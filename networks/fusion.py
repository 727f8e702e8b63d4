"""How the parts of a detector become one score and one map."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from .choices import choose
from .errors import ArgumentError

logger = logging.getLogger(__name__)


class Fusion(Protocol):
    """Combines evidence; weighs score and map separately.

    Attributes:
        config: plain values; ``make_fusion(**config)`` gives the same fusion.
    """

    @property
    def config(self) -> dict[str, Any]:
        """See the class."""
        ...

    def attach(self, parts: Sequence[str], maps: Sequence[str]) -> None:
        """Learns the parts of a detector; refuses one whose parts it cannot combine.

        Args:
            parts: the detector's parts.
            maps: those of them that have a map.
        """

    def score(self, values: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> Tensor:
        """One score ``(B,)``, before its standardisation.

        Args:
            values: the detector's raw values, ``(B,)`` each.
            parts: its standardised parts, ``(B,)`` each.
        """
        ...

    def map(self, maps: Mapping[str, Tensor]) -> Tensor:
        """One map ``(B, 1, H, W)`` of the parts' standardised maps."""
        ...


class WeightedFusion:
    """Weighted means of the standardised parts and of their maps.

    A weight of a part that the detector lacks goes to the others; a part without one counts 0.

    Args:
        weights: of the parts in the score; they need not sum to 1.
        map_weights: of the parts in the map.

    Raises:
        ArgumentError: for weights below 0 or without any above it.
    """

    def __init__(self, weights: Mapping[str, float], map_weights: Mapping[str, float]) -> None:
        self.weights = _checked("weights", weights)
        self.map_weights = _checked("map_weights", map_weights)

    @property
    def config(self) -> dict[str, Any]:
        """See `Fusion`."""
        return {"score": "fused", "weights": self.weights, "map_weights": self.map_weights}

    def attach(self, parts: Sequence[str], maps: Sequence[str]) -> None:
        """See `Fusion`.

        Raises:
            ArgumentError: when no weight above 0 belongs to any of the parts.
        """
        self.weights = _present("weights", self.weights, parts)
        self.map_weights = _present("map_weights", self.map_weights, maps)

    def score(self, values: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> Tensor:
        """See `Fusion`."""
        return _weighted(self.weights, parts)

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

    def __init__(self, beta: float, map_weights: Mapping[str, float]) -> None:
        if not 0.0 <= beta <= 1.0:
            raise ArgumentError(f"beta: expected a weight in [0, 1], got {beta}.")
        super().__init__(map_weights, map_weights)
        self.beta = float(beta)

    @property
    def config(self) -> dict[str, Any]:
        """See `Fusion`."""
        return {"score": "paper", "beta": self.beta, "map_weights": self.map_weights}

    def attach(self, parts: Sequence[str], maps: Sequence[str]) -> None:
        """See `Fusion`.

        Raises:
            ArgumentError: for a detector without likelihood and reconstruction.
        """
        if not set(self.PARTS) <= set(parts):
            raise ArgumentError(
                f"score: 'paper' combines {' and '.join(self.PARTS)}, but this detector has the "
                f"parts {', '.join(parts)}; take 'fused' or one of them."
            )
        super().attach(parts, maps)

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

    def __init__(self, part: str, map_weights: Mapping[str, float]) -> None:
        super().__init__({part: 1.0}, map_weights)
        self.part = part

    @property
    def config(self) -> dict[str, Any]:
        """See `Fusion`."""
        return {"score": self.part, "map_weights": self.map_weights}

    def attach(self, parts: Sequence[str], maps: Sequence[str]) -> None:
        """See `Fusion`.

        Raises:
            ArgumentError: for a part that the detector lacks.
        """
        choose("score", self.part, dict.fromkeys(("fused", "paper", *parts)))
        super().attach(parts, maps)


def make_fusion(
    score: str = "fused",
    weights: Mapping[str, float] | None = None,
    map_weights: Mapping[str, float] | None = None,
    beta: float = 0.9,
) -> WeightedFusion:
    """A fusion by name.

    Args:
        score: ``fused``, ``paper`` or the name of a part, which alone is then the score.
        weights: of the parts in the fused score.
        map_weights: of the parts in the map.
        beta: of the paper's score.

    Raises:
        ArgumentError: for weights out of range.
    """
    if score == "paper":
        return PaperFusion(beta, map_weights or {})
    if score == "fused":
        return WeightedFusion(weights or {}, map_weights or {})
    return PartFusion(score, map_weights or {})


def _checked(argument: str, weights: Mapping[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if not weight >= 0.0:
            raise ArgumentError(f"{argument}: expected numbers from 0 on, got {name}: {weight}.")
    return {name: float(weight) for name, weight in weights.items()}


def _present(argument: str, weights: Mapping[str, float], known: Sequence[str]) -> dict[str, float]:
    if not any(weights.get(name) for name in known):
        raise ArgumentError(
            f"{argument}: expected a weight above 0 for one of {', '.join(known)}, got {weights}; "
            "name the parts of this detector."
        )
    for name in weights:
        if name not in known:
            logger.info("%s: no part %r here; its weight goes to the others.", argument, name)
    return {name: weight for name, weight in weights.items() if name in known}


def _weighted(weights: Mapping[str, float], found: Mapping[str, Tensor]) -> Tensor:
    used = {name: weight for name, weight in weights.items() if weight and name in found}
    total = sum(used.values())
    terms = [found[name] * (weight / total) for name, weight in used.items()]
    return sum(terms[1:], start=terms[0])

"""Active learning: which study to look at next."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

from lib.guard import Refusal

Rank = Callable[[Mapping[str, Any]], float | None]

LEAST_STD = 0.5
"""Standard deviations by which a score is uncertain, whatever an ensemble says."""

RECENTLY = 3600.0
"""Seconds for which a study that was offered goes behind those that were not."""


def most_anomalous(score: Mapping[str, Any]) -> float | None:
    """The highest score first."""
    return -float(score["score"])


def most_uncertain(score: Mapping[str, Any]) -> float | None:
    """The score closest to the threshold first; None without a threshold.

    What is close, the standard deviation of an ensemble's scores says, where there is one.
    """
    threshold = score.get("threshold")
    if threshold is None:
        return None
    distance = abs(float(score["score"]) - float(threshold))
    return distance / math.hypot(float(score.get("score_std") or 0.0), LEAST_STD)


class Ranked(Strategy):  # type: ignore[misc]
    """Offers the studies that nobody has labelled or marked normal yet, by their score.

    Studies that were offered within the last hour come after the others; studies without a score
    come last, in random order.

    Args:
        name: of the strategy.
        description: for people.
        rank: what is lowest for the study to offer first; None stands for random.
    """

    def __init__(self, name: str, description: str, rank: Rank | None) -> None:
        super().__init__(description)
        self.name = name
        self.rank = rank

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Chooses a study.

        Returns:
            Its ``id``; nothing when all are done.

        Raises:
            Refusal: 409 when the scores cannot be ranked.
        """
        datastore.reread()
        open_ids = [one for one in datastore.get_unlabeled_images() if not datastore.is_normal(one)]
        if not open_ids:
            return {}
        return {"id": min(open_ids, key=lambda one: self._key(datastore, one))}

    def _key(self, datastore: Any, image_id: str) -> tuple[bool, bool, float, float]:
        offered = self._offered(datastore.info(image_id))
        score = datastore.score(image_id) if self.rank else None
        rank = self.rank(score) if self.rank and score else 0.0
        if rank is None:
            raise Refusal(
                409,
                f"strategy: {self.name} needs a threshold; the model was calibrated without "
                "held-out cases.",
            )
        missing = self.rank is not None and score is None
        return missing, time.time() - offered < RECENTLY, rank, random.random()

    def _offered(self, info: Mapping[str, Any]) -> float:
        strategies = info.get("strategy")
        mine = strategies.get(self.name) if isinstance(strategies, Mapping) else None
        when = mine.get("ts") if isinstance(mine, Mapping) else None
        return float(when) if isinstance(when, int | float) else 0.0


def strategies() -> dict[str, Ranked]:
    """The strategies by name."""
    listed = (
        Ranked("most_anomalous", "The study with the highest anomaly score", most_anomalous),
        Ranked("most_uncertain", "The score closest to the threshold", most_uncertain),
        Ranked("random", "A study at random", None),
    )
    return {one.name: one for one in listed}

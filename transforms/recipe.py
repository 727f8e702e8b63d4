"""How synthetic anomalies look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class AnomalyRecipe:
    """How synthetic anomalies look.

    Attributes:
        clean_share: share of the images that are left without an anomaly.
        second_share: share of the anomalous images that get a second anomaly.
        shapes: names in `transforms.shapes.SHAPES`, which take equal turns; a name may recur.
        fillings: names in `transforms.fillings.FILLINGS`, likewise.
        inside_share: share of the ellipses that are confined to the region; the others are only
            centred there. Other shapes are always confined to it.
        radius: range of the ellipses' half axes as a share of the image's side.
        contrast: range of the relative strength of an anomaly.
        roughness: range of the amplitude of the border's noise, in radii.
        softness: range of the border's width, in radii.
        least_change: smallest mean absolute change that counts as an anomaly.
    """

    clean_share: float = 0.375
    second_share: float = 0.4
    shapes: tuple[str, ...] = ("ellipse",)
    fillings: tuple[str, ...] = ("opacity", "opacity", "haze", "darkening", "blurred", "foreign")
    inside_share: float = 0.85
    radius: tuple[float, float] = (0.03, 0.25)
    contrast: tuple[float, float] = (0.15, 1.0)
    roughness: tuple[float, float] = (0.1, 0.7)
    softness: tuple[float, float] = (0.05, 0.5)
    least_change: float = 0.015


RECIPES = {
    "body": AnomalyRecipe(),
    # What ails air-filled lungs makes them denser, at many places or everywhere at once.
    "lungs": AnomalyRecipe(
        shapes=("ellipse", "ellipse", "patches", "diffuse"),
        fillings=("opacity", "opacity", "haze", "flattened", "reticular"),
    ),
}
"""Recipes by the region that anomalies lie in."""


def recipe_for(region: str, fillings: Sequence[str] | None = None) -> AnomalyRecipe:
    """The recipe for a region; one without a recipe of its own takes that of the body.

    Args:
        region: in which the anomalies lie.
        fillings: names of what is inside them; None takes the recipe's.
    """
    recipe = RECIPES.get(region, RECIPES["body"])
    return recipe if fillings is None else replace(recipe, fillings=tuple(fillings))

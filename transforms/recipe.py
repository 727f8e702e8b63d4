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
        withheld: the filling that no training sees, on which the weights of a fusion are fitted.
    """

    clean_share: float = 0.375
    second_share: float = 0.4
    shapes: tuple[str, ...] = ("ellipse",)
    fillings: tuple[str, ...] = (
        "opacity",
        "opacity",
        "haze",
        "darkening",
        "blurred",
        "tissue",
        "deformed",
        "foreign",
    )
    inside_share: float = 0.85
    radius: tuple[float, float] = (0.03, 0.25)
    contrast: tuple[float, float] = (0.15, 1.0)
    roughness: tuple[float, float] = (0.1, 0.7)
    softness: tuple[float, float] = (0.05, 0.5)
    least_change: float = 0.015
    withheld: str = "reticular"


RECIPES = {
    "body": AnomalyRecipe(),
    # What ails air-filled lungs makes them denser, at many places or everywhere at once.
    "lungs": AnomalyRecipe(
        shapes=("ellipse", "ellipse", "patches", "diffuse"),
        fillings=("opacity", "opacity", "haze", "flattened", "reticular"),
        withheld="foreign",
    ),
}
"""Recipes by the region that anomalies lie in."""


def recipe_for(
    region: str, fillings: Sequence[str] | None = None, withheld: str | None = None
) -> AnomalyRecipe:
    """The recipe for a region; one without a recipe of its own takes that of the body.

    Args:
        region: in which the anomalies lie.
        fillings: names of what is inside them; None takes the recipe's.
        withheld: the filling that is left out of them; None takes the recipe's.
    """
    recipe = RECIPES.get(region, RECIPES["body"])
    withheld = withheld or recipe.withheld
    names = [name for name in fillings or recipe.fillings if name != withheld]
    return replace(recipe, fillings=tuple(names), withheld=withheld)


def withheld_recipe(region: str, withheld: str | None = None) -> AnomalyRecipe:
    """Anomalies like those of `recipe_for`, in every image, with the filling that it leaves out."""
    recipe = recipe_for(region, withheld=withheld)
    return replace(recipe, fillings=(recipe.withheld,), clean_share=0.0)

"""Synthetic anomalies pasted into normal images, batched and on the device.

A detector that learns to find them needs nobody's labels: the anomalies are made up, the images
are the user's own normals. All randomness comes from one `Source`; the host
never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from transforms.augment import (
    REFERENCE_SIDE,
    NormalVariation,
    Source,
    gaussian_blur,
    move,
    vary_appearance,
)
from transforms.errors import InputError
from transforms.fillings import BLACK, FILLINGS
from transforms.recipe import AnomalyRecipe
from transforms.shapes import SHAPES

SOFTENING = 3 / REFERENCE_SIDE
"""Standard deviation of the Gaussian that softens a region, as a share of the image's side."""

VISIBLE_SIGMA = 1.5
"""Standard deviation, in pixels, of the Gaussian through which a change must be seen."""


class SyntheticAnomalies:
    """Moves normal images, pastes anomalies into some of them, and varies how they look.

    The appearance is varied last, so that a blurred image has blurred anomalies.

    Args:
        recipe: how the anomalies look.
        variation: how far the normal images themselves are varied; None leaves them as they are.

    Raises:
        InputError: if the recipe names an unknown shape or filling.
    """

    def __init__(
        self, recipe: AnomalyRecipe | None = None, variation: NormalVariation | None = None
    ) -> None:
        self.recipe = recipe or AnomalyRecipe()
        self.variation = variation
        self.shapes = by_name("shapes", self.recipe.shapes, SHAPES)
        self.fillings = by_name("fillings", self.recipe.fillings, FILLINGS)

    @property
    def practised(self) -> tuple[str, ...]:
        """The kinds of anomalies: names of their fillings."""
        return self.recipe.fillings

    @property
    def known(self) -> tuple[str, ...]:
        """All kinds that there are."""
        return tuple(FILLINGS)

    def only(self, kind: str, low: float, high: float) -> SyntheticAnomalies:
        """One anomaly of a kind in each image, its diameter `low` to `high` of the image's side."""
        recipe = replace(
            self.recipe,
            clean_share=0.0,
            second_share=0.0,
            shapes=("ellipse",),
            fillings=(kind,),
            radius=(low / 2, high / 2),
        )
        return SyntheticAnomalies(recipe)

    def __call__(
        self, image: Tensor, body: Tensor, region: Tensor, generator: Source
    ) -> tuple[Tensor, Tensor]:
        """Makes a training batch.

        Args:
            image: normal images ``(B, C, H, W)`` in [0, 1].
            body: ``(B, 1, H, W)`` bool; outside it nothing is pasted, and what is 0 stays 0.
            region: where anomalies are to lie, ``(B, 1, H, W)`` bool.
            generator: source of all randomness, on the image's device; None takes PyTorch's own,
                as a compiled call must, see `Source`.

        Returns:
            The images with anomalies ``(B, C, H, W)`` in [0, 1] and their masks
            ``(B, 1, H, W)``, 1 inside an anomaly.
        """
        inside, lies = body.to(image.dtype), region.to(image.dtype)
        if self.variation is not None:
            whole = move(torch.cat([image, inside, lies], dim=1), generator, self.variation)
            image, inside, lies = whole.split([image.shape[1], 1, 1], dim=1)
            inside, lies = (inside > 0.5).to(image.dtype), (lies > 0.5).to(image.dtype)
        softened = gaussian_blur(lies, SOFTENING * min(image.shape[-2:]))
        result, mask = self._paste_some(image, inside, softened, generator)
        if self.variation is not None:
            seen = image.amax(dim=1, keepdim=True) > BLACK
            shown = torch.maximum(inside, seen.to(image.dtype))
            result = vary_appearance(result, shown, generator, self.variation)
        return result, mask

    def _paste_some(
        self, image: Tensor, body: Tensor, region: Tensor, generator: Source
    ) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(image), generator=generator, device=image.device)
        result, body, region = image[order], body[order], region[order]
        mask = torch.zeros_like(body)
        # Work is done only where it shows: on the anomalous images, and again on some of them.
        clean = round(self.recipe.clean_share * len(image))
        once = self.recipe.second_share * (len(image) - clean)
        for start in (clean, len(image) - round(once)):
            result[start:], added = self._paste(
                result[start:], body[start:], region[start:], generator
            )
            mask[start:] = torch.maximum(mask[start:], added)
        back = torch.argsort(order)
        return result[back], mask[back]

    def _paste(
        self, image: Tensor, body: Tensor, region: Tensor, generator: Source
    ) -> tuple[Tensor, Tensor]:
        if not len(image):
            return image, image[:, :1]
        soft = self._take_turns(self.shapes, region, generator) * body
        filling = self._take_turns(self.fillings, image, generator)
        changed = (image + soft * (filling - image)).clamp(0.0, 1.0)
        change = (changed - image).abs().mean(dim=1, keepdim=True)
        visible = gaussian_blur(change, VISIBLE_SIGMA) > self.recipe.least_change
        return changed, ((soft > 0.4) & visible).to(image.dtype)

    def _take_turns(
        self, makers: Sequence[Callable[..., Tensor]], given: Tensor, generator: Source
    ) -> Tensor:
        """What the makers make of images ``(B, ...)``, each of its share of them."""
        order = torch.randperm(len(given), generator=generator, device=given.device)
        made = torch.empty_like(given)
        for turn, make in enumerate(makers):
            chosen = order[turn :: len(makers)]
            if len(chosen):
                made[chosen] = make(given[chosen], generator, self.recipe)
        return made


def by_name(argument: str, names: Sequence[str], known: Mapping[str, Any]) -> list[Any]:
    """What is known by these names.

    Raises:
        InputError: if a name is unknown, or there is none.
    """
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(
            f"{argument}: expected names among {', '.join(known)}, found "
            f"{', '.join(unknown) or 'none'}. Name at least one of them."
        )
    return [known[name] for name in names]

"""Several detectors of one kind as one: their mean, and how far they disagree."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..choices import choose
from ..errors import ArgumentError
from .contract import DETECTORS, Batches, Detector, Evidence, Inputs, Part, Stage, register

LEAST_MEMBERS = 2


class EnsembleOutput(NamedTuple):
    """What each member says.

    Attributes:
        members: their outputs.
    """

    members: tuple[Any, ...]


@register("ensemble")
class Ensemble(Detector):
    """Members that differ by their initial weights alone (Lakshminarayanan et al., NeurIPS 2017).

    They see the same batches, and minimise the mean of their losses. A part's map is the mean of
    the members' maps, each standardised on its own, as for a part of several maps. What the data
    decide and no weights, the first member gives for all.

    Args:
        member: name of the method.
        ensemble: number of members, at least 2.
        **options: the arguments of the method.

    Attributes:
        own: names of the maps that each member has for itself.

    Raises:
        ArgumentError: for an unknown name or too few members.
    """

    dims = (1, 2, 3)

    def __init__(self, member: str, ensemble: int = 3, **options: Any) -> None:
        if ensemble < LEAST_MEMBERS:
            raise ArgumentError(f"ensemble: expected at least {LEAST_MEMBERS}, got {ensemble}.")
        first: Detector = choose("member", member, DETECTORS)(**options)
        super().__init__(first.in_channels, spatial_dims=first.spatial_dims)
        others = [type(first)(**first.companion()) for _ in range(ensemble - 1)]
        self.members = tuple(f"@{number}" for number in range(1, ensemble + 1))
        self.exportable = first.exportable
        self.detectors = nn.ModuleList([first, *others])
        own = {"member": member, "ensemble": ensemble}
        self.config = ChainMap(own, first.config)  # which `prepare` may still change
        self.own = {name for part in others[0].parts for name in part.maps}

    @property
    def _all(self) -> Sequence[Detector]:
        return cast("Sequence[Detector]", self.detectors)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the first member needs, who needs the most."""
        return self._all[0].needs

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those of a member, their maps those of all members."""
        return tuple(
            part._replace(maps=tuple(key for name in part.maps for key in self._keys(name)))
            for part in self._all[0].parts
        )

    def _keys(self, name: str) -> tuple[str, ...]:
        return tuple(f"{name}{own}" for own in self.members) if name in self.own else (name,)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those of a member, for the parameters of all."""
        found = []
        for together in zip(*(one.stages for one in self._all), strict=True):
            terms = together[0].groups
            groups = {term: [p for stage in together for p in stage.groups[term]] for term in terms}
            found.append(together[0]._replace(groups=groups))
        return tuple(found)

    def load_encoder(self, state_dict: Mapping[str, Tensor]) -> None:
        """Loads the weights into the encoder of every member."""
        for one in self._all:
            one.load_encoder(state_dict)

    def encode(self, inputs: Inputs) -> list[Tensor] | None:
        """The features of all members, one after the other; None where they have none."""
        found = [one.encode(inputs) for one in self._all]
        if any(one is None for one in found):
            return None
        return [feature for one in found for feature in one]

    def forward(
        self, inputs: Inputs, features: Any = None, stage: str | None = None
    ) -> EnsembleOutput:
        """Runs all members; see `Detector.forward`."""
        if features is None:
            return EnsembleOutput(tuple(one(inputs, None, stage) for one in self._all))
        count = len(features) // len(self._all)
        shares = [features[start : start + count] for start in range(0, len(features), count)]
        return EnsembleOutput(
            tuple(one(inputs, own, stage) for one, own in zip(self._all, shares, strict=True))
        )

    def loss(
        self, output: EnsembleOutput, inputs: Inputs, stage: str, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The mean of each term over the members."""
        terms = [
            one.loss(said, inputs, stage, mask)
            for one, said in zip(self._all, output.members, strict=True)
        ]
        return {name: torch.stack([one[name] for one in terms]).mean() for name in terms[0]}

    def prepare(self, batches: Batches, stage: str | None) -> None:
        """Prepares the members one after the other."""
        for one in self._all:
            one.prepare(batches, stage)

    def evidence(self, output: EnsembleOutput, inputs: Inputs) -> Evidence:
        """The maps of all members, the means of their values, and each value on its own."""
        found = [
            one.evidence(said, inputs) for one, said in zip(self._all, output.members, strict=True)
        ]
        maps: dict[str, Tensor] = {}
        values = {n: torch.stack([o.values[n] for o in found]).mean(dim=0) for n in found[0].values}
        for own, one in zip(self.members, found, strict=True):
            maps |= {f"{n}{own}" if n in self.own else n: value for n, value in one.maps.items()}
            values |= {f"{name}{own}": value for name, value in one.values.items()}
        restored = [one.reconstruction for one in found if one.reconstruction is not None]
        return Evidence(maps, values, torch.stack(restored).mean(dim=0) if restored else None)

    def detected(self, output: EnsembleOutput) -> Tensor | None:
        """The mean of what the members detect."""
        found = [one.detected(said) for one, said in zip(self._all, output.members, strict=True)]
        known = [one for one in found if one is not None]
        return torch.stack(known).mean(dim=0) if known else None

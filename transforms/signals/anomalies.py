"""Synthetic anomalies in windows of signals, batched and on the device.

As in `transforms.synthetic`, all randomness comes from one `Source`, the host never waits for the
device, and no shape depends on the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from transforms.augment import Source, log_uniform, uniform
from transforms.synthetic import SyntheticAnomalies, by_name

LEAST_SPREAD = 0.02
"""Standard deviation, windows being in [0, 1], that a flat signal is taken to have."""

SPIKE_SHARE = 0.02
"""Length of a spike as a share of the window, at most."""


@dataclass(frozen=True)
class Place:
    """Where an anomaly lies in each window.

    Attributes:
        first: its first sample, ``(B, 1, 1)``.
        length: its samples, ``(B, 1, 1)``.
        inside: ``(B, 1, L)``, 1 in it and 0 elsewhere.
        spread: standard deviation of each channel of the window, ``(B, C, 1)``.
    """

    first: Tensor
    length: Tensor
    inside: Tensor
    spread: Tensor

    @property
    def course(self) -> Tensor:
        """From 0 at its first sample to 1 at its end, ``(B, 1, L)``."""
        return ((_samples(self.inside) - self.first) / self.length).clamp(0.0, 1.0)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of values ``(B, C, L)`` inside it, ``(B, C, 1)``."""
        return (values * self.inside).sum(dim=2, keepdim=True) / self.inside.sum(
            dim=2, keepdim=True
        )


Kind = Callable[[Tensor, Place, Source], Tensor]
"""Turns windows ``(B, C, L)`` in [0, 1] into what they would be if anomalous at a place."""


def spike(window: Tensor, place: Place, generator: Source) -> Tensor:
    """A few samples far off."""
    few = torch.minimum(place.length, place.length.clamp_max(SPIKE_SHARE * window.shape[2]).ceil())
    middle = (place.first + place.length / 2).floor()
    off = (_samples(window) - middle).abs() * 2 < few
    return window + off * _signed(window, place, generator, 3.0, 8.0)


def level(window: Tensor, place: Place, generator: Source) -> Tensor:
    """A step to another level, and back."""
    return window + _signed(window, place, generator, 1.0, 4.0)


def trend(window: Tensor, place: Place, generator: Source) -> Tensor:
    """A drift away."""
    return window + place.course * _signed(window, place, generator, 1.5, 5.0)


def flat(window: Tensor, place: Place, generator: Source) -> Tensor:
    """A line: the last value is kept, or the signal drops to its lowest value."""
    held = _at(window, place.first)
    lowest = window.amin(dim=2, keepdim=True)
    kept = uniform((len(window), 1, 1), 0.0, 1.0, window, generator) < 0.6
    return torch.where(kept, held, lowest).expand_as(window)


def frequency(window: Tensor, place: Place, generator: Source) -> Tensor:
    """Slower or faster."""
    speed = log_uniform((len(window), 1, 1), 1.4, 3.0, window, generator)
    slower = uniform((len(window), 1, 1), 0.0, 1.0, window, generator) < 0.5
    speed = torch.where(slower, 1.0 / speed, speed)
    return _at(window, place.first + (_samples(window) - place.first) * speed)


def amplitude(window: Tensor, place: Place, generator: Source) -> Tensor:
    """A smaller or a larger swing."""
    each, mean = (len(window), 1, 1), place.mean(window)
    less, more = (uniform(each, *limits, window, generator) for limits in ((0.0, 0.5), (1.6, 3.0)))
    smaller = uniform(each, 0.0, 1.0, window, generator) < 0.5
    return mean + torch.where(smaller, less, more) * (window - mean)


def noise(window: Tensor, place: Place, generator: Source) -> Tensor:
    """Noise on top."""
    drawn = torch.randn(window.shape, generator=generator, device=window.device, dtype=window.dtype)
    return window + drawn * place.spread * uniform((len(window), 1, 1), 0.3, 1.2, window, generator)


def missing(window: Tensor, place: Place, generator: Source) -> Tensor:
    """A beat or a peak left out: a straight line from one end to the other."""
    begin, end = _at(window, place.first), _at(window, place.first + place.length)
    return begin + place.course * (end - begin)


def swapped(window: Tensor, place: Place, generator: Source) -> Tensor:
    """A piece of another window, at its level."""
    shift = torch.randint(1, window.shape[2], (1,), generator=generator, device=window.device)
    order = (torch.arange(window.shape[2], device=window.device) + shift) % window.shape[2]
    other = torch.roll(window, 1, dims=0)[:, :, order]
    return other - place.mean(other) + place.mean(window)


SIGNAL_KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "spike": spike,
        "level": level,
        "trend": trend,
        "flat": flat,
        "frequency": frequency,
        "amplitude": amplitude,
        "noise": noise,
        "missing": missing,
        "swapped": swapped,
    }
)
"""The kinds to choose from."""


@dataclass(frozen=True)
class SignalRecipe:
    """How synthetic anomalies of signals look.

    Attributes:
        kinds: names in `SIGNAL_KINDS`, which take equal turns.
        clean_share: share of the windows that are left without an anomaly.
        length: range of an anomaly's length as a share of the window, log-uniform.
        channel_share: chance of each channel but one to take part.
        least_change: smallest mean absolute change inside it that counts as an anomaly.
        shift: largest change of a normal window's level, and of its swing relatively.
        noise: largest standard deviation of noise added to normal windows.
    """

    kinds: tuple[str, ...] = tuple(name for name in SIGNAL_KINDS if name != "swapped")
    clean_share: float = 0.375
    length: tuple[float, float] = (0.04, 0.5)
    channel_share: float = 0.6
    least_change: float = 0.015
    shift: float = 0.02
    noise: float = 0.01


class SignalAnomalies(SyntheticAnomalies):
    """Puts anomalies into some windows of signals, and varies all a little.

    Args:
        recipe: how the anomalies look.

    Raises:
        InputError: if the recipe names an unknown kind.
    """

    def __init__(self, recipe: SignalRecipe | None = None) -> None:
        self.signals = recipe or SignalRecipe()
        self.variation = None  # what is varied is varied here
        self.makers: Sequence[Kind] = by_name("kinds", self.signals.kinds, SIGNAL_KINDS)

    @property
    def practised(self) -> tuple[str, ...]:
        """The kinds of anomalies."""
        return self.signals.kinds

    @property
    def known(self) -> tuple[str, ...]:
        """All kinds that there are."""
        return tuple(SIGNAL_KINDS)

    def only(self, kind: str, low: float, high: float) -> SignalAnomalies:
        """One anomaly of a kind in each window, of a length from `low` to `high` of its own."""
        length = (low, high)
        alone = replace(self.signals, kinds=(kind,), clean_share=0.0, length=length)
        return SignalAnomalies(replace(alone, shift=0.0, noise=0.0))

    def __call__(
        self, image: Tensor, body: Tensor, region: Tensor, generator: Source
    ) -> tuple[Tensor, Tensor]:
        """Makes a training batch.

        Args:
            image: normal windows ``(B, C, L)`` in [0, 1].
            body: where samples are, ``(B, 1, L)`` bool; no other is changed or marked.
            region: where anomalies may lie, ``(B, 1, L)`` bool.
            generator: source of all randomness, on the windows' device.

        Returns:
            The windows with anomalies ``(B, C, L)`` in [0, 1] and their masks ``(B, 1, L)``, 1
            inside an anomaly.
        """
        allowed = (body & region).to(image.dtype)
        order = torch.randperm(len(image), generator=generator, device=image.device)
        result, mask = image.clone(), torch.zeros_like(allowed)
        clean = round(self.signals.clean_share * len(image))
        for turn, make in enumerate(self.makers):
            chosen = order[clean + turn :: len(self.makers)]
            if len(chosen):
                result[chosen], mask[chosen] = self._put(
                    make, image[chosen], allowed[chosen], generator
                )
        return self._varied(result, generator), mask

    def _put(
        self, make: Kind, window: Tensor, allowed: Tensor, generator: Source
    ) -> tuple[Tensor, Tensor]:
        place = self._place(window, allowed, generator)
        inside = place.inside * allowed
        chance = uniform(window.shape[:2], 0.0, 1.0, window, generator)
        taking = (chance < self.signals.channel_share) | (chance == chance.amin(1, keepdim=True))
        anomalous = make(window, place, generator).clamp(0.0, 1.0)
        changed = torch.where((inside > 0) & taking[:, :, None], anomalous, window)
        if make is spike:  # which is shorter than its place
            inside = inside * ((changed - window).abs().amax(dim=1, keepdim=True) > 0)
        change = (changed - window).abs().amax(dim=1, keepdim=True).sum(dim=2, keepdim=True)
        seen = change > self.signals.least_change * inside.sum(dim=2, keepdim=True)
        return changed, inside * seen

    def _place(self, window: Tensor, allowed: Tensor, generator: Source) -> Place:
        count, size = len(window), window.shape[2]
        length = log_uniform((count, 1, 1), *self.signals.length, window, generator) * size
        length = length.round().clamp(2, size)
        # As `transforms.shapes` does: `torch.multinomial` would wait for the device.
        lots = uniform(allowed.shape, 0.0, 1.0, allowed, generator) + allowed
        middle = lots.argmax(dim=2, keepdim=True).to(window.dtype)
        first = (middle - length / 2).floor().clamp_min(0).minimum(size - length)
        place = _samples(window) - first
        inside = ((place >= 0) & (place < length)).to(window.dtype)
        spread = window.std(dim=2, keepdim=True).clamp_min(LEAST_SPREAD)
        return Place(first, length, inside, spread)

    def _varied(self, window: Tensor, generator: Source) -> Tensor:
        each, most = (*window.shape[:2], 1), self.signals.shift
        mean = window.mean(dim=2, keepdim=True)
        swing = 1.0 + uniform(each, -most, most, window, generator)
        moved = mean + swing * (window - mean) + uniform(each, -most, most, window, generator)
        level_ = uniform((len(window), 1, 1), 0.0, self.signals.noise, window, generator)
        drawn = torch.randn(
            window.shape, generator=generator, device=window.device, dtype=window.dtype
        )
        return (moved + level_ * drawn).clamp(0.0, 1.0)


def _samples(like: Tensor) -> Tensor:
    return torch.arange(like.shape[-1], device=like.device, dtype=like.dtype)


def _at(window: Tensor, place: Tensor) -> Tensor:
    """Values of windows ``(B, C, L)`` at places ``(B, 1, P)`` between samples; mirrored beyond."""
    last = window.shape[2] - 1
    place = last - ((place % (2 * last)) - last).abs()
    low = place.floor().clamp(0, last)
    share = place - low
    where = low.long().expand(-1, window.shape[1], -1)
    below, above = window.gather(2, where), window.gather(2, (where + 1).clamp_max(last))
    return below + share * (above - below)


def _signed(window: Tensor, place: Place, generator: Source, low: float, high: float) -> Tensor:
    """An offset per channel of some standard deviations, upwards or downwards."""
    size = log_uniform((*window.shape[:2], 1), low, high, window, generator) * place.spread
    upwards = uniform((*window.shape[:2], 1), 0.0, 1.0, window, generator) < 0.5
    return torch.where(upwards, size, -size)

"""From a signal to the windows that the network sees, and back on its clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from pipelines.common import counted
from pipelines.data.baselines import SliceBaselines
from pipelines.data.cases import Case
from pipelines.data.signal_baselines import (
    find_season,
    moving_median,
    seasonal_difference,
    window_score,
)
from pipelines.data.slices import CaseLoader, CaseSample, Part, Whole
from transforms.errors import InputError
from transforms.signals import (
    Signal,
    SignalGeometry,
    read_signal,
    usual_stride,
    window_starts,
)

METHODS = ("training", "file")
"""Whose quantiles scale a signal: those of the training signals, or its own."""

INNER = (0.25, 0.75)
"""Where the quantiles `EXTREMES` come to lie in [0, 1]; beyond them there is as much room again."""

EXTREMES = (0.005, 0.995)
"""Quantiles of a channel's samples that its scale is made of."""

Limits = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class SignalSample(CaseSample):
    """A signal as it is scored; the fields of `CaseSample` are those of its windows.

    ``images`` are ``(K, C, L)``, with filled gaps; ``indices`` the windows' numbers; ``labels`` 1
    where a sample of a window is anomalous; ``masks`` and ``body`` ``(K, L)``, the body being where
    there are samples, in ``context`` ``(K, 1, L)``; and ``geometry`` is a `SignalGeometry`, whose
    ``blend`` joins windows ``(K, ..., L)`` to ``(..., T)``.

    Attributes:
        signal: the whole of it: ``values`` ``(C, T)`` in the file's units with NaN in gaps, the
            ``channels``, the ``time`` axis ``(T,)`` (see ``told_time``), ``seen`` ``(T,)``, and
            ``labels`` ``(T,)``, None where unknown.
        limits: per channel the values that became `INNER` of [0, 1].
    """

    geometry: SignalGeometry  # type: ignore[assignment]
    signal: Signal = None  # type: ignore[assignment]
    limits: Limits = ()

    def restored(self, windows: Tensor) -> Tensor:
        """Windows ``(K, C, L)``, such as a reconstruction, cut to [0, 1], in the file's units."""
        low, high = _columns(self.limits)
        return low + (windows.clamp(0.0, 1.0) - INNER[0]) / (INNER[1] - INNER[0]) * (high - low)

    @property
    def levels(self) -> tuple[Part, Whole]:
        """Windows, and the signal."""
        return "window", "signal"

    @property
    def times(self) -> list[Any]:
        """When the windows begin, as the file tells the time, ``(K,)``."""
        return self.signal.told_time(self.signal.time[list(self.geometry.starts)])

    @property
    def marked(self) -> NDArray[np.bool_] | None:
        """Where anomalies are, ``(T,)``; nowhere in a normal signal, None if unknown."""
        if self.signal.labels is None and self.case.label == 0:
            return np.zeros(self.geometry.length, dtype=bool)
        return self.signal.labels

    def trace(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Maps of windows ``(K, L)`` as `on_grid` joins them, ``(T,)``."""
        return np.asarray(self.on_grid(torch.from_numpy(maps)))

    def judged(self, maps: NDArray[np.float32]) -> tuple[NDArray[Any], ...] | None:
        """Each sample once, however many windows hold it; none of a gap.

        Args:
            maps: ``(K, L)``.

        Returns:
            Trace, marks and what has a trace, ``(1, T)``; None where the marks are not known.
        """
        if self.marked is None:
            return None
        trace = self.trace(maps)[None]
        return trace, self.marked[None], np.isfinite(trace)

    def native(self, maps: Tensor) -> Tensor:
        """Maps of windows ``(K, L)`` at the resolution of the file, which they have."""
        return maps

    def on_grid(self, maps: Tensor) -> MetaTensor:
        """Maps of windows ``(K, L)`` as one trace ``(T,)``; NaN in gaps and outside windows."""
        trace = self.geometry.blend(maps, self.indices)
        return MetaTensor(torch.where(torch.from_numpy(self.signal.seen), trace, torch.nan))


class SignalLoader:
    """Reads a signal (`read_signal`), scales it and cuts it into windows.

    Args:
        window: samples of a window.
        stride: samples from one window to the next; None takes a quarter of a window.
        modalities: the channels.
        intensity: ``training`` or ``file``, see `METHODS`; ``auto`` is ``training``, so that a
            level that no training signal had is seen.
        min_body_fraction: share of a window's samples that must be there; the others, over which
            a straight line is drawn, are too few to look anomalous.
        limits: per channel the values that become `INNER`; None for those of `training`.
        training: signals whose normal samples set the limits, and which tell the season; each is
            kept until it is first asked for.
        season: samples after which normal signals repeat themselves; None for that of `training`,
            if they do.
        with_baselines: whether to compute the trivial scores too, for evaluation.
    """

    volumetric = True

    def __init__(
        self,
        window: int,
        stride: int | None = None,
        modalities: Sequence[str] | None = None,
        intensity: str = "auto",
        min_body_fraction: float = 0.9,
        limits: Sequence[Sequence[float]] | None = None,
        training: Sequence[Case] = (),
        season: int | None = None,
        with_baselines: bool = False,
    ) -> None:
        method = "training" if intensity == "auto" else intensity
        if method not in METHODS:
            raise InputError(
                f"intensity: of signals expected auto or one of {', '.join(METHODS)}, found "
                f"{intensity!r}."
            )
        self.window = int(window)
        self.stride = usual_stride(self.window, stride)
        if not 1 <= self.stride <= self.window:
            raise InputError(
                f"stride: expected samples from 1 to the window's {self.window}, found {stride}."
            )
        self.modalities = None if modalities is None else tuple(modalities)
        self.method = method
        self.min_body_fraction = float(min_body_fraction)
        self.limits: Limits | None = None
        if limits is not None:
            self.limits = tuple((float(low), float(high)) for low, high in limits)
        self._waiting = {case: self._read(case) for case in training}
        signals = list(self._waiting.values())
        if limits is None and method == "training":
            self.limits = _limits(signals)
        self.season = find_season(one.filled for one in signals) if season is None else int(season)
        self.with_baselines = with_baselines

    @property
    def parameters(self) -> dict[str, Any]:
        """Plain values from which ``SignalLoader(**parameters)`` rebuilds this loader."""
        return {
            "window": self.window,
            "stride": self.stride,
            "modalities": None if self.modalities is None else list(self.modalities),
            "intensity": self.method,
            "min_body_fraction": self.min_body_fraction,
            "limits": None if self.limits is None else [list(one) for one in self.limits],
            "season": self.season,
        }

    @property
    def normal_told(self) -> str:
        """What a normal window is, for messages."""
        return (
            f"A window of {self.window} samples is normal when none of them is marked as anomalous "
            f"and at least {self.min_body_fraction:.0%} of them are there; loosen "
            "min_body_fraction, or take a smaller --window."
        )

    def __call__(self, case: Case) -> SignalSample:
        """Reads and cuts one signal.

        Raises:
            InputError: when the file cannot be used.
        """
        signal = self._waiting.pop(case, None) or self._read(case)
        length = signal.values.shape[1]
        longest = int((1 - self.min_body_fraction) * self.window)
        starts = window_starts(signal.seen, self.window, self.stride, longest)
        if not starts:
            raise InputError(
                f"{case.images[0]}: expected at least the {counted(self.window, 'sample')} of a "
                f"window, found {length} with gaps between. Leave it out, or train with a smaller "
                "--window."
            )
        geometry = SignalGeometry(length, self.window, tuple(starts))
        limits = self.limits or _limits([signal], marked=True)
        filled, seen = torch.from_numpy(signal.filled), torch.from_numpy(signal.seen)
        indices = torch.arange(len(starts))
        body = geometry.cut(seen, indices)
        masks = None
        if signal.labels is not None:
            masks = geometry.cut(torch.from_numpy(signal.labels & signal.seen), indices)
        return SignalSample(
            case=case,
            images=_scaled(geometry.cut(filled, indices), limits),
            indices=indices,
            labels=_window_labels(case, masks, len(indices)),
            masks=masks,
            geometry=geometry,
            body=body,
            context={"body": body[:, None]},
            signal=signal,
            limits=limits,
            baselines=self._baselines(signal, geometry) if self.with_baselines else None,
        )

    def _baselines(self, signal: Signal, geometry: SignalGeometry) -> SliceBaselines:
        filled, seen = signal.filled, signal.seen
        traces = {"moving_median": moving_median(filled, seen)}
        if self.season is not None:
            traces["seasonal_difference"] = seasonal_difference(filled, self.season, seen)
        maps = {name: geometry.cut(torch.from_numpy(one)).numpy() for name, one in traces.items()}
        scores = {name: np.array([*map(window_score, one)]) for name, one in maps.items()}
        return SliceBaselines(scores, maps)

    def _read(self, case: Case) -> Signal:
        signal = read_signal(case.images[0], self.modalities)
        if case.mask is None:  # what is not asked for is not compared
            signal = replace(signal, labels=None)
        if case.span is not None:
            signal = signal.part(*case.span)
        return signal


def reads_signals(model: Mapping[str, Any]) -> bool:
    """Whether a model, by the content of its file, is one of signals."""
    return "window" in model.get("preprocessing", ())


def seen_size(model: Mapping[str, Any]) -> tuple[int, ...]:
    """What the network of a model sees at once: (H, W), (L,) of signals, (D, H, W) of volumes."""
    preprocessing = model["preprocessing"]
    images = preprocessing.get("patch_size") or preprocessing.get("image_size")
    sides = [preprocessing["window"]] if reads_signals(model) else images
    return tuple(int(side) for side in sides)


def require_images(model: Mapping[str, Any], what: str) -> None:
    """Refuses a model of signals where viewers of images are served.

    Args:
        model: content of the model file.
        what: what was asked for.

    Raises:
        InputError: for a model of signals.
    """
    if reads_signals(model):
        raise InputError(
            f"{what}: expected a model of images, found one of signals, which 3D Slicer and "
            "OHIF do not show. Score signals with 'aeflow predict' or aeflow.Predictor."
        )


def loader_of(parameters: Mapping[str, Any]) -> CaseLoader | SignalLoader:
    """The loader with these parameters: of signals if it has a window."""
    kind = SignalLoader if "window" in parameters else CaseLoader
    return kind(**parameters)


def model_loader(model: Mapping[str, Any]) -> CaseLoader | SignalLoader:
    """The loader that a model was trained with."""
    return loader_of(model["preprocessing"])


def _limits(signals: Sequence[Signal], marked: bool = False) -> Limits:
    """Per channel the quantiles `EXTREMES` of all normal samples, or of the `marked` ones too."""
    if not signals:
        raise InputError("limits: give the training signals, or the limits of a trained model.")
    normal = [
        one.values[:, one.seen if marked or one.labels is None else one.seen & ~one.labels]
        for one in signals
    ]
    return tuple(_channel_limits(row) for row in np.concatenate(normal, axis=1))


def _channel_limits(values: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[float, float]:
    if not values.size:
        raise InputError("dataset_dir: no normal sample at all to scale the signals by.")
    low, high = (float(one) for one in np.quantile(values, EXTREMES))
    if high > low:
        return low, high
    spread = float(np.ptp(values)) or abs(low) or 1.0  # a channel that hardly ever changes
    return low - spread / 2, low + spread / 2


def _columns(limits: Limits) -> tuple[Tensor, Tensor]:
    """The lower and the upper limits of the channels, ``(C, 1)`` each."""
    low, high = torch.tensor(limits).T[:, :, None]
    return low, high


def _scaled(values: Tensor, limits: Limits) -> Tensor:
    low, high = _columns(limits)
    return (INNER[0] + (values - low) / (high - low) * (INNER[1] - INNER[0])).clamp(0.0, 1.0)


def _window_labels(case: Case, masks: Tensor | None, count: int) -> Tensor:
    if masks is not None and case.label != 0:
        return masks.any(dim=1).to(torch.int8)
    # A signal known to be anomalous, without marks, says nothing of its single windows.
    return torch.full((count,), 0 if case.label == 0 else -1, dtype=torch.int8)

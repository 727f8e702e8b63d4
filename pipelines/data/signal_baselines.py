"""Trivial traces of a signal, against which every result is read.

They need no training but for the season, which the normal signals of the training tell. A trace is
the size of a residual in robust standard units of the signal's own residuals, the mean over the
channels; higher is more anomalous. Signals come with their gaps bridged; gaps score 0.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import median_filter
from scipy.signal import correlate, detrend, find_peaks

from transforms.intensity import robust_z

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

WINDOW = 25
"""Samples of the moving median, half of them on either side."""

HIGHEST_SAMPLES = 10
"""Number of samples whose mean is the score of a window."""

LEAST_CORRELATION = 0.3
"""Autocorrelation below which a peak is no season."""

NEARLY = 0.98
"""Share of the highest peak that makes a shorter season the better explanation."""

TINY = 1e-12
"""Variance below which a signal is constant."""


def moving_median(signal: ArrayLike, seen: ArrayLike | None = None, window: int = WINDOW) -> Floats:
    """Residual to the median of a centred window.

    Args:
        signal: (C, T), finite.
        seen: (T,) False in gaps; None takes all samples.
        window: samples.

    Returns:
        (T,) trace, at least 0.
    """
    channels, known = _arrays(signal, seen)
    return _trace(channels - median_filter(channels, size=(1, window), mode="nearest"), known)


def seasonal_difference(signal: ArrayLike, season: int, seen: ArrayLike | None = None) -> Floats:
    """Difference to one season before; in the first season, to one after.

    Args:
        signal: (C, T), finite.
        season: samples, see `find_season`.
        seen: (T,) False in gaps; None takes all samples. Where the counterpart is a gap the trace
            is 0.

    Returns:
        (T,) trace, at least 0; of zeros where the signal is no longer than the season.
    """
    channels, known = _arrays(signal, seen)
    time = np.arange(known.size)
    other = np.where(time < season, time + season, time - season)
    both = known & np.append(known, False)[np.minimum(other, known.size)]
    if not both.any():
        return np.zeros(known.size, np.float32)
    return _trace(channels - channels[:, np.minimum(other, known.size - 1)], both)


def find_season(signals: Iterable[ArrayLike]) -> int | None:
    """The season of normal signals: the first high peak of their mean autocorrelation.

    Args:
        signals: (C, T) each, finite; they may differ in T.

    Returns:
        Samples, at most half of the shortest signal; None where nothing repeats itself.
    """
    found = [_autocorrelation(_arrays(one, None)[0]) for one in signals]
    if not found:
        return None
    mean = np.mean([one[: min(map(len, found))] for one in found], axis=0)
    # Neighbours are alike without any season: the autocorrelation must have fallen before.
    start = int(np.argmax(np.append(mean < LEAST_CORRELATION, True)))
    peaks, told = find_peaks(mean[start:], height=LEAST_CORRELATION)
    if not peaks.size:
        return None
    heights = told["peak_heights"]
    return start + int(peaks[heights >= NEARLY * heights.max()][0])


def window_score(trace: ArrayLike) -> float:
    """The score of a window: the mean of the ten highest samples of its trace (L,)."""
    return float(np.sort(np.asarray(trace))[-HIGHEST_SAMPLES:].mean(dtype=np.float64))


def _autocorrelation(channels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the channels less their trends, up to a lag of half of the signal."""
    length = channels.shape[1]
    rows = detrend(channels)
    sums = np.stack([correlate(one, one, method="fft")[length - 1 :] for one in rows])
    products = sums[:, : length // 2 + 1] / (length - np.arange(length // 2 + 1))
    mean: NDArray[np.float64] = np.mean(products / np.maximum(products[:, :1], TINY), axis=0)
    return mean


def _trace(residuals: NDArray[np.floating], known: Mask) -> Floats:
    body = torch.from_numpy(known)
    z = [robust_z(torch.from_numpy(one), body, flat=True).abs().numpy() for one in residuals]
    trace: Floats = np.where(known, np.mean(z, axis=0), 0).astype(np.float32)
    return trace


def _arrays(signal: ArrayLike, seen: ArrayLike | None) -> tuple[NDArray[np.float64], Mask]:
    """The signal, and what is seen of it."""
    channels = np.asarray(signal, dtype=np.float64)
    return channels, np.ones(channels.shape[1], bool) if seen is None else np.asarray(seen, bool)

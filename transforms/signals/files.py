"""Signal files: CSV, NumPy, EDF and WFDB."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transforms.errors import InputError
from transforms.limits import require_memory
from transforms.signals.clock import Floats, Signal, on_clock

TIME_NAMES = ("time", "timestamp", "date", "datetime", "time_s", "seconds")
LABEL_NAMES = ("label", "labels", "anomaly", "is_anomaly")
RATE_NAMES = ("rate", "fs", "sampling_rate")
"""What columns and arrays are called, whatever their case."""

LABELS_SUFFIX = ".labels.csv"
HEAD = 200
"""Rows of a table that tell its columns."""

INFLATED = 8
"""Bytes in memory of a byte in a file that is not an array, at most."""


class _Raw(NamedTuple):
    """What a file holds: values ``(C, N)``, and times and labels ``(N,)`` where it has them."""

    values: Floats
    channels: tuple[str, ...]
    time: Floats | None = None
    rate: float | None = None
    dates: bool = False
    labels: NDArray[np.bool_] | None = None


def is_signal(path: Path) -> bool:
    """Tell a signal file by its name; the table of its labels is none."""
    name = path.name.lower()
    return name.endswith(SIGNAL_SUFFIXES) and not name.endswith(LABELS_SUFFIX)


def signal_stem(path: Path) -> str:
    """The name without the suffix of a signal file."""
    return path.name[: -len(path.suffix)] if path.name.lower().endswith(SIGNAL_SUFFIXES) else ""


def labels_file(path: Path) -> Path | None:
    """The file that tells which samples are anomalous: a table beside it, or itself; or None.

    Raises:
        InputError: if the file cannot be read.
    """
    beside = path.with_name(signal_stem(path) + LABELS_SUFFIX)
    if beside.is_file():
        return beside
    if path.suffix.lower() == ".csv":
        return path if _named(_head(path).columns, LABEL_NAMES) else None
    if path.suffix.lower() == ".npz":
        with _told(path), np.load(path, allow_pickle=False) as stored:
            return path if _named(stored.files, LABEL_NAMES) else None
    return None


def channel_names(path: Path) -> tuple[str, ...]:
    """The channels of a file; of a table without reading all of it.

    Raises:
        InputError: if the file cannot be read, or has none.
    """
    if path.suffix.lower() != ".csv":
        return read_signal(path).channels
    return _channels_of(path, _head(path))


def read_signal(path: Path, channels: Sequence[str] | None = None) -> Signal:
    """Reads a signal onto a uniform clock.

    - CSV: a header; a column ``time``, ``timestamp`` or ``date`` (seconds or ISO dates); a column
      ``label`` or ``anomaly`` (0 or 1); every other column of numbers is a channel. Without a
      header all columns are channels.
    - NumPy: ``.npy`` ``(T,)``, or two axes of which the longer is time; ``.npz`` with one such
      array, or ``signal``, and as needed ``time`` or ``rate``, ``label`` and ``channels``.
    - EDF and WFDB (the ``.hea`` file), with the optional packages of ``aeflow[signals]``.

    A file ``<name>.labels.csv`` beside it, with the columns ``start`` and ``end`` in the unit of
    the file's times (else numbers of samples), both included, marks anomalies.

    Args:
        path: the file.
        channels: those wanted, in this order; None for all.

    Raises:
        InputError: if the file cannot be read, lacks a channel, or follows no clock.
    """
    require_memory(path, _size(path))
    with _told(path):
        raw = _READERS[path.suffix.lower()](path)
    raw = _chosen(path, raw, channels)
    values = np.where(np.isfinite(raw.values), raw.values, np.nan)
    if not np.isfinite(values).any(axis=1).all():
        empty = raw.channels[int(np.argmin(np.isfinite(values).any(axis=1)))]
        raise InputError(f"{path}: the channel {empty} has no value. Leave it out, or the file.")
    time, rate, labels = np.arange(values.shape[1], dtype=np.float64), raw.rate, raw.labels
    if raw.time is not None:
        time, values, labels, rate = on_clock(str(path), raw.time, values, labels)
    elif rate is not None:
        time = time / rate
    signal = Signal(values.astype(np.float32), raw.channels, time, rate, raw.dates, labels)
    beside = path.with_name(signal_stem(path) + LABELS_SUFFIX)
    return _with_events(signal, beside) if beside.is_file() else signal


def _read_csv(path: Path) -> _Raw:
    table = _table(path)
    names = _channels_of(path, table)
    times, marks = _named(table.columns, TIME_NAMES), _named(table.columns, LABEL_NAMES)
    time, dates = (None, False) if times is None else _times(path, table[times])
    labels = None if marks is None else (table[marks].fillna(0) != 0).to_numpy()
    values = table[list(names)].to_numpy(dtype=np.float64).T
    return _Raw(values, tuple(str(name) for name in names), time, None, dates, labels)


def _read_npy(path: Path) -> _Raw:
    values = _channels_first(path, np.load(path, allow_pickle=False))
    return _Raw(values, _numbered(len(values)))


def _read_npz(path: Path) -> _Raw:
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    told = {
        kind: arrays.pop(name)
        for kind, names in (("time", TIME_NAMES), ("labels", LABEL_NAMES), ("rate", RATE_NAMES))
        if (name := _named(arrays, names))
    }
    channels = arrays.pop("channels", None)
    if "signal" not in arrays and len(arrays) != 1:
        raise InputError(
            f"{path}: expected an array 'signal', found {', '.join(arrays) or 'none'}. Rename it."
        )
    values = _channels_first(path, arrays.get("signal", next(iter(arrays.values()))))
    names = _numbered(len(values)) if channels is None else tuple(str(n) for n in channels)
    if len(names) != len(values):
        raise InputError(
            f"{path}: expected {len(values)} names of channels, found {', '.join(names)}."
        )
    for name, one in (("time", told.get("time")), ("label", told.get("labels"))):
        if one is not None and one.shape != values.shape[1:]:
            raise InputError(
                f"{path}: expected {values.shape[1]} values of {name}, found the shape {one.shape}."
            )
    labels = told["labels"] != 0 if "labels" in told else None
    rate = float(told["rate"]) if "rate" in told else None
    time = told["time"].astype(np.float64) if "time" in told else None
    return _Raw(values, names, time, rate, False, labels)


def _read_edf(path: Path) -> _Raw:
    signals = _package("edfio", path).read_edf(path).signals
    rates = {float(one.sampling_frequency) for one in signals}
    if len(rates) != 1:
        listed = ", ".join(f"{one.label} {one.sampling_frequency:g} Hz" for one in signals)
        raise InputError(
            f"{path}: expected channels of one rate, found {listed or 'none'}. Resample them, or "
            "write those of one rate into a file of their own."
        )
    values = np.stack([np.asarray(one.data, dtype=np.float64) for one in signals])
    return _Raw(values, tuple(str(one.label) for one in signals), rate=rates.pop())


def _read_wfdb(path: Path) -> _Raw:
    record = _package("wfdb", path).rdrecord(str(path.absolute().with_suffix("")))
    values = np.asarray(record.p_signal, dtype=np.float64).T
    return _Raw(values, tuple(map(str, record.sig_name)), rate=float(record.fs))


_READERS: Mapping[str, Callable[[Path], _Raw]] = {
    ".csv": _read_csv,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".edf": _read_edf,
    ".hea": _read_wfdb,
}
SIGNAL_SUFFIXES = tuple(_READERS)
"""Endings of signal files, in lower case."""


class _told:
    """Tells whatever stops the reading of a file as the user's to mend."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, InputError):
            told = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"{self.path}: expected a signal as CSV, NumPy, EDF or WFDB, but reading it failed "
                f"({told}). Check the file."
            ) from error


def _package(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{path}: reading it needs the package {name}. Install it with: pip install "
            "'aeflow[signals]'"
        ) from error


def _size(path: Path) -> int:
    """Bytes that a file takes once read, at most."""
    if path.suffix.lower() == ".npz" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return 2 * sum(one.file_size for one in archive.infolist())
    parts = path.parent.glob(f"{path.stem}*.dat") if path.suffix.lower() == ".hea" else (path,)
    return INFLATED * sum(one.stat().st_size for one in parts)


def _head(path: Path) -> Any:
    with _told(path):
        return _table(path, HEAD)


def _table(path: Path, rows: int | None = None) -> Any:
    import pandas as pd  # slow

    with path.open(encoding="utf-8-sig") as file:
        first = file.readline().strip()
    sign = max(",;\t", key=first.count)
    cells = [cell.strip().strip('"') for cell in first.split(sign)]
    numbers = all(_is_number(cell) for cell in cells)
    table = pd.read_csv(
        path, sep=sign, nrows=rows, header=None if numbers else 0, encoding="utf-8-sig",
        names=_numbered(len(cells)) if numbers else None, skipinitialspace=True,
    )  # fmt: skip
    return table.rename(columns=lambda name: str(name).strip())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _channels_of(path: Path, table: Any) -> tuple[str, ...]:
    others = {_named(table.columns, names) for names in (TIME_NAMES, LABEL_NAMES)}
    numbers = table.select_dtypes("number").columns
    found = tuple(str(name) for name in numbers if name not in others)
    if not found:
        raise InputError(
            f"{path}: expected at least one column of numbers beside time and label, found "
            f"{', '.join(map(str, table.columns))}. Check separators and decimal points."
        )
    return found


def _times(path: Path, column: Any) -> tuple[Floats, bool]:
    import pandas as pd  # slow

    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64), False
    moments = (
        pd.to_datetime(column, utc=True).dt.tz_convert(None).to_numpy().astype("datetime64[us]")
    )
    seconds: Floats = moments.astype(np.int64) / 1e6
    return seconds, True


def _chosen(path: Path, raw: _Raw, channels: Sequence[str] | None) -> _Raw:
    if channels is None or tuple(channels) == raw.channels:
        return raw
    missing = [name for name in channels if name not in raw.channels]
    if missing:
        raise InputError(
            f"{path}: expected the channels {', '.join(channels)}, found "
            f"{', '.join(raw.channels)}. Rename them, or leave this file out; a training reads "
            "those that --modalities names."
        )
    rows = [raw.channels.index(name) for name in channels]
    return raw._replace(values=raw.values[rows], channels=tuple(channels))


def _with_events(signal: Signal, beside: Path) -> Signal:
    """The signal with the anomalies that a table of intervals marks."""
    import pandas as pd  # slow

    with _told(beside):
        table = pd.read_csv(beside, encoding="utf-8-sig").rename(
            columns=lambda n: n.strip().lower()
        )
        if not {"start", "end"} <= set(table.columns):
            raise InputError(
                f"{beside}: expected the columns start and end, found "
                f"{', '.join(map(str, table.columns)) or 'none'}."
            )
        spans = [_times(beside, table[name])[0] for name in ("start", "end")]
    labels = np.zeros(len(signal.time), dtype=bool)
    half = 0.5 * (signal.time[1] - signal.time[0]) if len(signal.time) > 1 else 0.0
    for start, end in zip(*spans, strict=True):
        inside = (signal.time > start - half) & (signal.time < end + half)
        if not start <= end or not inside.any():
            raise InputError(
                f"{beside}: expected intervals inside the signal, from "
                f"{signal.told_time(signal.time[[0, -1]])}, found {start:g} to {end:g}. Give start "
                "and end in the unit of its times."
            )
        labels |= inside
    return Signal(signal.values, signal.channels, signal.time, signal.rate, signal.dates, labels)


def _channels_first(path: Path, array: NDArray[Any]) -> Floats:
    if array.ndim not in (1, 2) or not array.size or array.dtype.kind not in "fiub":
        raise InputError(
            f"{path}: expected numbers of shape (T,) or (C, T), found {array.dtype} of shape "
            f"{array.shape}."
        )
    rows = np.atleast_2d(array).astype(np.float64)
    return rows if rows.shape[0] <= rows.shape[1] else rows.T


def _numbered(count: int) -> tuple[str, ...]:
    return ("value",) if count == 1 else tuple(f"channel_{n + 1}" for n in range(count))


def _named(names: Any, wanted: Sequence[str]) -> str | None:
    """The name among several that is one of those wanted, whatever its case."""
    return next((str(name) for name in names if str(name).lower() in wanted), None)

"""Arranges signals for comparisons: generated KPIs, and public recordings that a package ships.

    python -m benchmarks.signals kpi --output kpi
    pip download --no-deps aeon
    python -m benchmarks.signals ecg --source aeon-*.whl --output ecg
    python -m benchmarks.signals bleeding --source aeon-*.whl --output bleeding
    aeflow compare kpi --methods "['aeflow','donut']" --seeds "[0,1,2]"

The trivial traces, moving median and seasonal difference, stand beside the methods by themselves.

The wheel of aeon (BSD 3-Clause) holds files of TimeEval's collection (Wenig et al., PVLDB 2022);
``--source`` takes it, or the folder of the installed package. `ecg` is ``ecg-diff-count-3``, made
by GutenTAG: 10,000 samples without and 20,000 with six events. `bleeding` is number 135 of the UCR
anomaly archive (Keogh et al., KDD 2021): the arterial pressure of one patient, 7,501 samples with
one event. Recordings are cut into pieces, whose order in time is lost: pieces of one recording are
no patients, so that intervals over them say nothing of other recordings, and a single event
makes a recall of 0 or 1.
"""

from __future__ import annotations

import argparse
import csv
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.kpi import COLUMNS, write_kpis
from pipelines.common import write_csv
from transforms.errors import InputError

DATA = "aeon/datasets/data"
RECORDINGS = {
    "ecg": (
        "UnitTest/ecg-diff-count-3_TRAIN_NA.csv",
        "UnitTest/ecg-diff-count-3_TRAIN_A.csv",
        "UnitTest/ecg-diff-count-3_TEST.csv",
    ),
    "bleeding": ("KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_TEST.csv",),
}
"""Files of the package; the training file of `bleeding` repeats the beginning of the other."""

PIECE = {"ecg": 1000, "bleeding": 500}
"""Samples of a piece: 50 and some 3 beats."""

Row = tuple[float, str, int]


def read_recording(source: Path, name: str) -> list[Row]:
    """Time, value and label of each sample.

    Args:
        source: a wheel, or the folder that holds the package.
        name: of the file, below `DATA`.

    Raises:
        InputError: when it is not there.
    """
    path = f"{DATA}/{name}"
    try:
        if source.is_file():
            text = zipfile.Path(source, path).read_text()
        else:
            text = (source / path).read_text()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"--source: expected the wheel of aeon 1.6, or a folder that holds it, with {path}; "
            f"found {source}. Get it by 'pip download --no-deps aeon==1.6.0'."
        ) from error
    rows = list(csv.reader(io.StringIO(text)))[1:]
    return [(float(time), value, int(float(label))) for time, value, label in rows]


def pieces(rows: Sequence[Row], length: int) -> Iterator[Sequence[Row]]:
    """Pieces of a length, or longer where an event would be cut.

    Example:
        >>> labels = [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
        >>> [len(one) for one in pieces([(i, "1", n) for i, n in enumerate(labels)], 3)]
        [4, 3, 3]
    """
    start = 0
    while len(rows) - start >= 2 * length:
        end = start + length
        while end < len(rows) and rows[end][2]:
            end += 1
        yield rows[start:end]
        start = end
    yield rows[start:]


def write_pieces(folder: Path, source: Path, recording: str) -> Path:
    """Writes the pieces of recordings as CSV files below ``normal`` and ``anomalous``."""
    for number, name in enumerate(RECORDINGS[recording]):
        for place, piece in enumerate(pieces(read_recording(source, name), PIECE[recording])):
            kind = "anomalous" if any(label for _, _, label in piece) else "normal"
            path = folder / kind / f"{recording}{number}_{place:02d}.csv"
            write_csv(path, [dict(zip(COLUMNS, row, strict=True)) for row in piece], COLUMNS)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("signals", choices=("kpi", *RECORDINGS))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--source", type=Path, help="wheel of aeon, or the folder that holds it")
    parser.add_argument("--seed", type=int, default=2026, help="of the generated KPIs")
    options = parser.parse_args(arguments)
    if options.signals == "kpi":
        write_kpis(options.output, seed=options.seed)
    elif options.source is None:
        parser.error("--source: give the wheel of aeon, by 'pip download --no-deps aeon==1.6.0'.")
    else:
        try:
            write_pieces(options.output, options.source, options.signals)
        except InputError as error:
            parser.error(str(error))
    counts = {one.name: len(list(one.glob("*.csv"))) for one in sorted(options.output.iterdir())}
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(f"{told}: {options.output}")


if __name__ == "__main__":
    main()

"""``aeflow report``: opens what a run wrote."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from transforms.errors import InputError


def main(words: Sequence[str]) -> None:
    """Opens the report of a run in a browser, and says where it is.

    Raises:
        InputError: when there is none.
    """
    parser = argparse.ArgumentParser(prog="aeflow report", description="open a run's report")
    parser.add_argument("output_dir", type=Path, help="folder of the results")
    parser.add_argument("--no_browser", action="store_true", help="only say where it is")
    options = parser.parse_args(words)
    report: Path = options.output_dir / "report.html"
    if not report.is_file():
        raise InputError(
            f"output_dir: there is no report.html in {options.output_dir}. Give the folder that a "
            "training, an evaluation or an inference wrote."
        )
    print(report.resolve())
    if not options.no_browser:
        webbrowser.open(report.resolve().as_uri())

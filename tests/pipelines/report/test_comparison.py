"""The page of a comparison: what it tells, what it escapes, and how it looks with many methods."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.outputs.beside import Shown
from pipelines.report.comparison import (
    ComparisonContent,
    comparison_tables,
    write_comparison_page,
)
from pipelines.report.words import SIGNALS, VOLUMES, Words

HOSTILE = "<script>alert(1)</script>"
COST = {
    "training_seconds": 75.0, "scoring_ms_per_image": 2.0, "memory_gigabytes": 1.5,
    "gpu_gigabytes": 0.0, "parameters": 2e6, "model_megabytes": 10.0,
}  # fmt: skip


def figure(value: float | None, low: float = 0.0, high: float = 1.0) -> dict[str, Any]:
    return {"value": value, "ci95": [low, high]}


@pytest.fixture
def content() -> ComparisonContent:
    names = ["aeflow", "weak", *(f"method{number}" for number in range(8))]
    methods = {
        name: {
            "image_auroc": figure(0.9 - 0.05 * number), "image_ap": figure(0.8),
            "pixel_ap": figure(0.4), "matched_auroc": figure(0.7),
            "minus_reference": figure(-0.1, -0.2, -0.05), "minus_trivial": figure(0.1, -0.1, 0.3),
        }
        for number, name in enumerate(names)
    }  # fmt: skip
    baselines = {"area": {"image_auroc": figure(0.6), "image_ap": figure(0.5)}}
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(32, 32)).astype(np.float32)
    slice_ = Shown("case", 7, image, 6 * image, image > 0.9)
    compared = {
        "images": 12, "best_trivial": "area", "methods": methods, "baselines": baselines,
    }  # fmt: skip
    return ComparisonContent(
        compared=compared,
        costs=dict.fromkeys(names, COST),
        aurocs=dict.fromkeys(names, (0.8, None)),
        failures=[(HOSTILE, f"exit code 1: {HOSTILE}")],
        shown=[dict.fromkeys(names, slice_), {}],
        about={"seeds": [0, 1]},
        notes=[HOSTILE],
    )


def test_the_tables_tell_the_best_first_and_what_is_decided(content: ComparisonContent) -> None:
    ranking, maps, decisions, cost = comparison_tables(content)
    assert [name for name, _ in ranking.rows][:2] == ["aeflow", "weak"]
    assert ranking.rows[-1][0] == "baseline area"
    cells = dict(ranking.rows)["weak"]
    assert cells[1].text == "0.800, –"
    assert [cell.remark for cell in cells[-2:]] == ["worse than it", "undecided"]
    assert len(maps.rows) == len(decisions.rows) == len(content.costs)
    assert [cell.text for cell in dict(cost.rows)["weak"]][:2] == ["1:15", "2.0"]


@pytest.mark.parametrize(("words", "matched"), [(VOLUMES, True), (SIGNALS, False)])
def test_a_matched_figure_stands_where_there_is_one(
    words: Words, matched: bool, content: ComparisonContent
) -> None:
    table = comparison_tables(replace(content, words=words))[0]
    assert ("matched AUROC" in table.columns) == matched
    assert {len(cells) + 1 for _, cells in table.rows} == {len(table.columns)}


def test_the_page_is_complete_and_escapes(content: ComparisonContent, tmp_path: Path) -> None:
    text = write_comparison_page(tmp_path, content).read_text()
    assert HOSTILE not in text and text.count("&lt;script&gt;") == 3
    assert text.count("<img ") == 1 and "Slice 7 of case" in text
    assert "http" not in text.replace("http-equiv", "")


def test_what_is_shown_comes_back(tmp_path: Path, content: ComparisonContent) -> None:
    shown = content.shown[0]["weak"]
    shown.save(tmp_path)
    found = Shown.load(tmp_path / "case.npz")
    assert (found.case, found.index) == ("case", 7) and found.mask is not None
    np.testing.assert_allclose(found.map, shown.map, atol=0.01)

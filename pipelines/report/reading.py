"""The reading list: a row per case, the most suspicious first."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from networks import part_column
from pipelines.report.content import ReportContent
from pipelines.report.volumes import MAX_VOLUMES

MOST_PLAIN = 200
"""Rows of the plain table: what stays without JavaScript and on paper."""

MOST_PICTURED = 5_000
"""Rows with a thumbnail; each takes some 2 kB of the page."""

HIGHEST_SLICE = "highest_slice"
"""Column of the slice with the highest score of a volume."""


@dataclass(frozen=True)
class Field:
    """What a row tells, under its name in ``scores.csv``.

    Attributes:
        name: of the column there.
        title: head of its column in the list; "" for none of its own.
        digits: behind the point, for numbers that have some.
        words: in place of values.
        before: in front of the value.
        remark: the field that stands below it.
        ascending: whether the lowest is the most telling.
    """

    name: str
    title: str = ""
    digits: int | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    remark: str = ""
    ascending: bool = False

    def tell(self, value: Any) -> str:
        """A value of `ScoreRow.cells` in words; "" where nothing is known."""
        if value == "" or self.words:
            return self.words.get(str(value), "")
        return self.before + (str(value) if self.digits is None else f"{value:.{self.digits}f}")


FIELDS = (
    Field("case", "case", ascending=True),
    Field("score", "score", digits=2, remark="score_std"),
    Field("score_std", digits=2, before="± "),
    Field("flagged", "decision", words={"1": "flagged", "0": "not flagged"}),
    Field("percentile", "percentile", digits=1, remark="p_value"),
    Field("p_value", digits=3, before="p "),
    Field(
        "in_scope", "scope", words={"1": "in scope", "0": "out of scope"}, remark="out_of_scope",
        ascending=True,
    ),
    Field("out_of_scope"),
    Field(HIGHEST_SLICE, "highest slice", digits=0, ascending=True),
    Field("label", "label", words={"1": "anomalous", "0": "normal"}),
)  # fmt: skip


@dataclass(frozen=True)
class ReadingList:
    """The list as the page holds it.

    Attributes:
        fields: what the rows tell, in their order.
        rows: their values, the highest score first; "" where nothing is known.
        pictures: a JPEG in base64 for each of the first rows, "" for one without.
        viewed: the cases that the viewer holds; ``#viewer-1`` opens the first.
        panels: whether ``panels/`` beside the page has a picture of each case.
    """

    fields: Sequence[Field]
    rows: Sequence[Sequence[Any]]
    pictures: Sequence[str]
    viewed: Sequence[str]
    panels: bool

    @property
    def columns(self) -> list[Field]:
        """The fields that have a column."""
        return [one for one in self.fields if one.title]

    @cached_property
    def plain(self) -> list[dict[str, Any]]:
        """The rows of the plain table.

        Returns:
            Per row ``case``, ``picture``, whether it is ``marked``, and ``cells``: the field, text
            and remark of each further column.
        """
        by_name = {one.name: one for one in self.fields}
        found = []
        for row, picture in zip(self.rows[:MOST_PLAIN], self.pictures, strict=False):
            told = {n: one.tell(v) for (n, one), v in zip(by_name.items(), row, strict=True)}
            cells = [(one, told[one.name], told.get(one.remark)) for one in self.columns[1:]]
            marked = told.get("flagged") == "flagged"
            found.append({"case": row[0], "picture": picture, "marked": marked, "cells": cells})
        return found

    @property
    def data(self) -> dict[str, Any]:
        """What the script of the page works on."""
        return {
            "fields": [asdict(one) for one in self.fields],
            "rows": self.rows,
            "pictures": self.pictures,
            "viewed": self.viewed,
            "panels": self.panels,
            "most_plain": MOST_PLAIN,
        }


def reading_list(content: ReportContent, part: str = "slice") -> ReadingList | None:
    """The cases of a report; patients are left out.

    Args:
        content: of the report.
        part: what a case has several of.

    Returns:
        None without any case.
    """
    slices = sorted((row for row in content.rows if row.is_part), key=_rank)
    highest = {row.case: row.slice for row in slices}
    cases = sorted((row for row in content.rows if not row.is_part), key=_rank, reverse=True)
    if not cases:
        return None
    cells = [{**row.cells(), HIGHEST_SLICE: highest.get(row.case, "")} for row in cases]
    fields = [replace(one, title=one.title.replace("slice", part)) for one in FIELDS]
    parts = [Field(part_column(name), name, digits=2) for name in cases[0].parts]
    known = [one for one in (*fields, *parts) if any(row.get(one.name, "") != "" for row in cells)]
    pictures = [content.thumbnails.get(row.case, b"") for row in cases[:MOST_PICTURED]]
    return ReadingList(
        fields=known,
        rows=[[_finite(row.get(one.name, "")) for one in known] for row in cells],
        pictures=[base64.b64encode(picture).decode("ascii") for picture in pictures],
        viewed=[volume.name for volume in content.volumes[:MAX_VOLUMES]],
        panels=content.panels,
    )


def _rank(row: Any) -> float:
    return row.score if math.isfinite(row.score) else -math.inf


def _finite(value: Any) -> Any:
    return "" if isinstance(value, float) and not math.isfinite(value) else value
